"""Work in several threads of which each computes alone, so that reading and computing overlap."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

MOST = 8
"""Threads; more do not make a disk faster, and each has pieces in memory."""

T = TypeVar("T")


def each(work: Callable[[T], None], items: Sequence[T]) -> None:
    """Do `work` for all items; raises what it raises."""
    own, inference = torch.get_num_threads(), torch.is_inference_mode_enabled()

    def alike(item: T) -> None:
        with torch.inference_mode(inference):  # a setting of the thread
            work(item)

    count = min(max(2, own), MOST, len(items))  # one may wait for the disk
    if count < 2:
        for item in items:
            work(item)
        return
    try:
        # torch's setting is one for the threads to come and for the calling one
        with ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            for _ in pool.map(alike, items):
                pass
    finally:
        torch.set_num_threads(own)

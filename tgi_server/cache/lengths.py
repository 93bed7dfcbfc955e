"""Lengths of requests that the memory for caches has room for. Stdlib only: the launcher asks, too."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields

from tgi_server.config.schema import BatchingOptions

USABLE = 0.9
"""Part of the free memory that the caches may take; the rest covers activations and fragmentation."""

_SHORTEST = 2
"""A prompt of a token and an answer of one."""


def lengths_within(
    options: BatchingOptions, fits: Callable[[BatchingOptions], bool]
) -> tuple[int, int] | None:  # fmt: skip
    """The largest `max_input_length` and `max_total_tokens`, in the proportion that they have, of which a request fits.

    None if none does. `fits` is asked about shorter and shorter ones.
    """
    low, high = _SHORTEST, options.max_total_tokens + 1
    if not fits(_shorter(options, low)):
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(_shorter(options, middle)) else (low, middle)
    return _prompt(options, low), low


def _shorter(options: BatchingOptions, total: int) -> BatchingOptions:
    values = {each.name: getattr(options, each.name) for each in fields(BatchingOptions)}
    changed = values | {"max_total_tokens": total, "max_input_length": _prompt(options, total)}
    return BatchingOptions(**changed)


def _prompt(options: BatchingOptions, total: int) -> int:
    return max(1, min(total - 1, total * options.max_input_length // options.max_total_tokens))

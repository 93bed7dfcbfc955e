"""What the system knows of our processes. Linux only."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from tgi_server.telemetry.metrics import Metrics

_PROC = Path("/proc")
_PAGE, _TICKS = os.sysconf("SC_PAGE_SIZE"), os.sysconf("SC_CLK_TCK")

_USER, _SYSTEM, _STARTED, _ADDRESSES, _RESIDENT = 11, 12, 19, 20, 21
"""Places in what `_stat` gives: times in ticks, address space in bytes, memory in pages (man 5 proc_pid_stat)."""


def read_process(metrics: Metrics) -> None:
    """Have memory, processor time and descriptors of this process told with `metrics`, under the names that
    Prometheus' own clients give them; nothing on other systems."""
    if (stat := _stat("self")) is None:
        return
    metrics.read("process_cpu_seconds_total", time.process_time)
    metrics.read("process_resident_memory_bytes", partial(_resident, "self"))
    metrics.read("process_virtual_memory_bytes", lambda: (_stat("self") or stat)[_ADDRESSES])
    metrics.read("process_open_fds", lambda: len(os.listdir("/proc/self/fd")))  # noqa: PTH208  # no paths are made
    since_boot = time.clock_gettime(time.CLOCK_BOOTTIME)
    metrics.gauge("process_start_time_seconds", round(time.time() - since_boot + stat[_STARTED] / _TICKS, 2))
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if most != resource.RLIM_INFINITY:
        metrics.gauge("process_max_fds", most)


def read_shards(metrics: Metrics, pids: Sequence[int]) -> None:
    """Have those of the processes of all ranks told, as long as they live."""
    for rank, pid in enumerate(pids):
        metrics.read("tgi_shard_resident_memory_bytes", partial(_resident, str(pid)), rank=str(rank))
        metrics.read("tgi_shard_cpu_seconds", partial(_seconds, str(pid)), rank=str(rank))


def _resident(process: str) -> int | None:
    stat = _stat(process)
    return None if stat is None else stat[_RESIDENT] * _PAGE


def _seconds(process: str) -> float | None:
    stat = _stat(process)
    return None if stat is None else (stat[_USER] + stat[_SYSTEM]) / _TICKS


def _stat(process: str) -> list[int] | None:
    """The numbers that the system keeps of a process, behind its name and state; None if there is none."""
    try:
        text = (_PROC / process / "stat").read_text()
    except OSError:
        return None
    return [0, *map(int, text.rpartition(")")[2].split()[1:])]  # the first is the state, a letter

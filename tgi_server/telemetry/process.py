"""The standard metrics of a process, under the names that Prometheus' own clients give them. Linux only."""

from __future__ import annotations

import os
import resource
import time
from pathlib import Path

from tgi_server.telemetry.metrics import Metrics

_SELF = Path("/proc/self")


def read_process(metrics: Metrics) -> None:
    """Have memory, processor time and descriptors of this process told with `metrics`; nothing on other systems."""
    if not (_SELF / "statm").exists():
        return
    page, most = os.sysconf("SC_PAGE_SIZE"), resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    metrics.read("process_cpu_seconds_total", time.process_time)
    metrics.read("process_resident_memory_bytes", lambda: page * _pages()[1])
    metrics.read("process_virtual_memory_bytes", lambda: page * _pages()[0])
    metrics.read("process_open_fds", lambda: len(os.listdir(_SELF / "fd")))  # noqa: PTH208  # no paths are made
    metrics.gauge("process_start_time_seconds", _started())
    if most != resource.RLIM_INFINITY:
        metrics.gauge("process_max_fds", most)


def _pages() -> list[int]:
    """Of the address space, and of those the ones in memory."""
    return [int(number) for number in (_SELF / "statm").read_text().split()[:2]]


def _started() -> float:
    """Unix time, to the hundredth of a second that the kernel knows."""
    ticks = int((_SELF / "stat").read_text().rpartition(")")[2].split()[19])
    since_boot = time.clock_gettime(time.CLOCK_BOOTTIME)
    return round(time.time() - since_boot + ticks / os.sysconf("SC_CLK_TCK"), 2)

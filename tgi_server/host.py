"""What this machine leaves to one process: cores and memory, within its control groups. Stdlib only, no torch.

`root` is where /proc and /sys are, everywhere; tests give a tree of their own. Control groups limit at every level from
a process's own group up to the root, and version 1 names them for each controller.
"""

from __future__ import annotations

import ctypes
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

_GROUPS = Path("sys/fs/cgroup")


def usable_cores(root: Path = Path("/"), affinity: int | None = None) -> int:
    """Processor cores this process may use: by its affinity, and by the quota of its control groups."""
    return max(1, min([affinity or _affinity(), *_quotas(root)]))


def free_memory(root: Path = Path("/")) -> int:
    """Bytes this process may still take: what the machine has left, and what each of its control groups has."""
    return max(0, min([_available(root), *_rooms(root)]))


def resident_memory(root: Path = Path("/")) -> int:
    """Bytes of memory that this process has; 0 where the system does not tell."""
    pages = _text(root / "proc/self/statm").split()
    return int(pages[1]) * os.sysconf("SC_PAGE_SIZE") if len(pages) > 1 else 0


def return_memory() -> None:
    """Give the pages back that the C library keeps and nobody uses. Takes milliseconds; other threads go on."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform.startswith("linux") else None
    if trim is not None:  # glibc has it, musl keeps nothing
        trim(0)


def memory_sizes(root: Path = Path("/")) -> dict[str, int]:
    """The sizes of /proc/meminfo in bytes by name; empty where there is no such file."""
    text = _text(root / "proc/meminfo")
    return {name: int(size) * 1024 for name, size in re.findall(r"^(\w+):\s+(\d+) kB", text, re.MULTILINE)}


def _affinity() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _available(root: Path) -> int:
    sizes = memory_sizes(root)
    for name in ("MemAvailable", "MemFree"):  # kernels before 3.14 tell only the latter
        if name in sizes:
            return sizes[name]
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _quotas(root: Path) -> Iterator[int]:
    """Whole cores that each control group grants."""
    grants = [_text(level / "cpu.max").split() for level in _levels(root)]
    for level in _levels(root, "cpu"):
        grants.append([_text(level / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period")])
    for grant in grants:
        if len(grant) == 2 and all(word.isdigit() for word in grant):  # else no limit: max, -1, or no such file
            yield int(grant[0]) // int(grant[1])


def _rooms(root: Path) -> Iterator[int]:
    """Bytes that each control group leaves. Cached files that were not read lately make room when it is needed."""
    for level in _levels(root):
        limits = [limit for name in ("max", "high") if (limit := _number(level / f"memory.{name}")) is not None]
        yield from _room(limits, level / "memory.current", level / "memory.stat", "inactive_file")
    for level in _levels(root, "memory"):
        limit = _number(level / "memory.limit_in_bytes")  # without a limit a number no machine has
        limits = [] if limit is None else [limit]
        yield from _room(limits, level / "memory.usage_in_bytes", level / "memory.stat", "total_inactive_file")


def _room(limits: list[int], current: Path, stat: Path, reclaimable: str) -> Iterator[int]:
    """What is left of the least limit, at least nothing: above memory.high a group is slowed down until it shrinks."""
    used = _number(current)
    if limits and used is not None:
        found = re.search(rf"^{reclaimable} (\d+)$", _text(stat), re.MULTILINE)
        yield max(0, min(limits) - max(0, used - int(found[1] if found else 0)))


def _levels(root: Path, controller: str = "") -> list[Path]:
    """The directories of the process's own group and those above it; in a container the first ones may not be there.

    Args:
        controller: of version 1; empty for version 2.
    """
    lines = (line.split(":", 2) for line in _text(root / "proc/self/cgroup").splitlines())
    own = next((Path(path.strip("/")) for _, names, path in lines if controller in names.split(",")), Path())
    top = root / _GROUPS / controller
    return [top / level for level in dict.fromkeys([own, *own.parents])]


def _number(path: Path) -> int | None:
    text = _text(path).strip()
    return int(text) if text.isdigit() else None


def _text(path: Path) -> str:
    """Of a file of the kernel; empty where it is not there, or goes while it is read."""
    try:
        return path.read_text()
    except OSError:
        return ""

"""What a measurement was made on."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Mapping
from pathlib import Path


def facts(proc: Path = Path("/proc")) -> Mapping[str, str]:
    """Processor, cores this process may use, and memory.

    Args:
        proc: where the files of the kernel are.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    model = _found(proc / "cpuinfo", r"^model name\s*:\s*(.+)$") or platform.machine()
    kilobytes = _found(proc / "meminfo", r"^MemTotal:\s*(\d+) kB")
    memory = f"{int(kilobytes) / 2**20:.0f} GiB" if kilobytes else "unknown"
    return {"Processor": model, "Cores": str(cores), "Memory": memory}


def _found(path: Path, pattern: str) -> str | None:
    match = re.search(pattern, path.read_text(), re.MULTILINE) if path.exists() else None
    return match[1] if match else None

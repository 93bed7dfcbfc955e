"""Cores and memory, on trees of files like those of other machines."""

from __future__ import annotations

import platform
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from tgi_server import host

MIB = 2**20
NO_LIMIT = "9223372036854771712"
"""What version 1 writes."""


def tree(root: Path, files: Mapping[str, str | int]) -> Path:
    """Files by their path; groups of version 2 below `2/`, of version 1 below `1/`."""
    for name, text in files.items():
        path = root / name.replace("2/", "sys/fs/cgroup/", 1).replace("1/", "sys/fs/cgroup/memory/", 1)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")
    return root


def machine(root: Path, own: str, files: Mapping[str, str | int]) -> int:
    """Free memory, in MiB, of a machine that has 1000 left, for a process in the group `own`."""
    given = {"proc/meminfo": "MemTotal: 4096000 kB\nMemFree: 1 kB\nMemAvailable: 1024000 kB", "proc/self/cgroup": own}
    return host.free_memory(tree(root, {**given, **files})) // MIB


def group(prefix: str, limit: str | int, used: int, inactive: int = 0, high: str | int = "max") -> dict[str, str | int]:
    """A group of version 2."""
    return {
        f"{prefix}/memory.max": limit,
        f"{prefix}/memory.high": high,
        f"{prefix}/memory.current": used,
        f"{prefix}/memory.stat": f"anon 1\nfile 5\ninactive_file {inactive}\nactive_file 7",
    }


def old_group(prefix: str, limit: str | int, used: int, inactive: int = 0) -> dict[str, str | int]:
    """A group of version 1."""
    return {
        f"{prefix}/memory.limit_in_bytes": limit,
        f"{prefix}/memory.usage_in_bytes": used,
        f"{prefix}/memory.stat": f"cache 9\ninactive_file 3\ntotal_inactive_file {inactive}",
    }


V2: Mapping[str, tuple[dict[str, str | int], int]] = {
    "no groups": ({}, 1000),
    "no limit": (group("2/a/b", "max", 50 * MIB), 1000),
    "the own group": (group("2/a/b", 300 * MIB, 100 * MIB), 200),
    "a group above": (group("2/a", 300 * MIB, 100 * MIB) | group("2/a/b", "max", 50 * MIB), 200),
    "the least of all": (
        group("2/.", 900 * MIB, 0) | group("2/a", 500 * MIB, 450 * MIB) | group("2/a/b", 400 * MIB, 100 * MIB), 50,
    ),
    "another group": (group("2/c", 300 * MIB, 100 * MIB), 1000),
    "more than there is": (group("2/a/b", 5000 * MIB, 0), 1000),
    "high is below max": (group("2/a/b", 300 * MIB, 100 * MIB, high=150 * MIB), 50),
    "high alone": (group("2/a/b", "max", 100 * MIB, high=150 * MIB), 50),
    "high is above max": (group("2/a/b", 300 * MIB, 100 * MIB, high=900 * MIB), 200),
    "cached files": (group("2/a/b", 300 * MIB, 290 * MIB, inactive=250 * MIB), 260),
    "above its limit": (group("2/a/b", "max", 200 * MIB, high=150 * MIB), 0),
    "no stat": ({"2/a/b/memory.max": 300 * MIB, "2/a/b/memory.current": 100 * MIB}, 200),
    "no usage": ({"2/a/b/memory.max": 300 * MIB}, 1000),
}  # fmt: skip


@pytest.mark.parametrize("case", V2)
def test_free_memory(case: str, tmp_path: Path) -> None:
    files, expected = V2[case]
    assert machine(tmp_path, "0::/a/b", files) == expected


def test_a_container_that_sees_its_group_as_the_root(tmp_path: Path) -> None:
    assert machine(tmp_path, "0::/", group("2/.", 300 * MIB, 100 * MIB)) == 200
    assert machine(tmp_path, "0::/not/mounted/here", {}) == 200


V1: Mapping[str, tuple[dict[str, str | int], int]] = {
    "no limit": (old_group("1/d/x", NO_LIMIT, 50 * MIB), 1000),
    "the own group": (old_group("1/d/x", 300 * MIB, 100 * MIB), 200),
    "a group above": (old_group("1/d", 300 * MIB, 100 * MIB) | old_group("1/d/x", NO_LIMIT, 5), 200),
    "a container": (old_group("1/.", 300 * MIB, 100 * MIB), 200),
    "cached files": (old_group("1/d/x", 300 * MIB, 290 * MIB, inactive=250 * MIB), 260),
    "another group": (old_group("1/e", 300 * MIB, 100 * MIB), 1000),
}


@pytest.mark.parametrize("case", V1)
def test_free_memory_with_old_control_groups(case: str, tmp_path: Path) -> None:
    files, expected = V1[case]
    assert machine(tmp_path, "5:cpuset:/e\n4:hugetlb,memory:/d/x\n0::/", files) == expected


def test_an_old_kernel_and_a_machine_that_tells_nothing(tmp_path: Path) -> None:
    assert host.free_memory(tree(tmp_path / "old", {"proc/meminfo": "MemTotal: 9 kB\nMemFree: 5 kB"})) == 5 * 1024
    assert host.free_memory(tmp_path / "nothing") > 0
    assert host.memory_sizes(tmp_path / "nothing") == {}


@pytest.mark.parametrize(("path", "content", "quota"), [
    ("cpu.max", "max 100000", None), ("cpu.max", "250000 100000", 2), ("a/cpu.max", "100000 100000", 1),
    ("a/b/cpu.max", "50000 100000", 1), ("other/cpu.max", "100000 100000", None),
])  # fmt: skip
def test_usable_cores(path: str, content: str, quota: int | None, tmp_path: Path) -> None:
    for name, text in {"proc/self/cgroup": "0::/a/b\n", f"sys/fs/cgroup/{path}": content}.items():
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    assert host.usable_cores(tmp_path, affinity=8) == (quota or 8)


def test_usable_cores_with_old_control_groups(tmp_path: Path) -> None:
    (tmp_path / "sys/fs/cgroup/cpu").mkdir(parents=True)
    (tmp_path / "sys/fs/cgroup/cpu/cpu.cfs_quota_us").write_text("100000\n")
    (tmp_path / "sys/fs/cgroup/cpu/cpu.cfs_period_us").write_text("100000\n")
    assert host.usable_cores(tmp_path) == 1


def test_old_control_groups_of_every_level_limit_cores(tmp_path: Path) -> None:
    files: dict[str, str | int] = {
        "proc/self/cgroup": "3:cpu,cpuacct:/d/x",
        "sys/fs/cgroup/cpu/d/cpu.cfs_quota_us": 300000,
    }
    files |= {"sys/fs/cgroup/cpu/d/cpu.cfs_period_us": 100000, "sys/fs/cgroup/cpu/d/x/cpu.cfs_quota_us": -1}
    assert host.usable_cores(tree(tmp_path, files), affinity=8) == 3


def test_this_machine() -> None:
    assert host.usable_cores() >= 1
    assert 0 < host.free_memory() <= host.memory_sizes()["MemTotal"]


def test_it_is_light() -> None:
    code = "import sys, tgi_server.host; print({'torch', 'numpy', 'yaml', 'omegaconf'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"


FREED = """
import ctypes
from tgi_server import host
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
blocks = [libc.malloc(4000) for _ in range(25_000)]
for block in blocks:
    ctypes.memset(block, 1, 4000)
full = host.resident_memory()
for block in blocks[:-1]:  # the last one keeps the C library from giving the rest back by itself
    libc.free(block)
kept = host.resident_memory()
host.return_memory()
print(full - kept, kept - host.resident_memory())
"""


@pytest.mark.skipif("glibc" not in platform.libc_ver(), reason="only this C library keeps what is freed")
def test_memory_that_the_c_library_keeps_is_given_back() -> None:
    done = subprocess.run([sys.executable, "-c", FREED], capture_output=True, text=True, check=True)
    by_itself, returned = map(int, done.stdout.split())
    assert by_itself < 20e6 and returned > 80e6

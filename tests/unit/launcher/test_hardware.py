"""What is read from /dev, /proc and /sys, on machines made of files."""

from __future__ import annotations

from pathlib import Path

import pytest

from tgi_server.config.schema import DType
from tgi_server.launcher import hardware


@pytest.fixture
def four_gpus(tmp_path: Path) -> Path:
    (tmp_path / "dev").mkdir()
    for name in ("nvidia0", "nvidia1", "nvidia2", "nvidia10", "nvidiactl", "nvidia-uvm"):
        (tmp_path / "dev" / name).touch()
    return tmp_path


@pytest.mark.parametrize(("environ", "count"), [
    ({}, 4),
    ({"CUDA_VISIBLE_DEVICES": "0,2"}, 2),
    ({"CUDA_VISIBLE_DEVICES": ""}, 0),
    ({"CUDA_VISIBLE_DEVICES": "-1"}, 0),
    ({"CUDA_VISIBLE_DEVICES": "1,-1,2"}, 1),
    ({"CUDA_VISIBLE_DEVICES": "GPU-8932f937,GPU-d2ab6a03"}, 2),
    ({"CUDA_VISIBLE_DEVICES": "0,1,2,3,4,5"}, 4),
    ({"NVIDIA_VISIBLE_DEVICES": "all"}, 4),
    ({"NVIDIA_VISIBLE_DEVICES": "void"}, 0),
    ({"NVIDIA_VISIBLE_DEVICES": "none"}, 0),
    ({"NVIDIA_VISIBLE_DEVICES": "void", "CUDA_VISIBLE_DEVICES": "3"}, 1),
    ({"NVIDIA_VISIBLE_DEVICES": "0,1,2", "CUDA_VISIBLE_DEVICES": "3"}, 1),
])  # fmt: skip
def test_accelerators(environ: dict[str, str], count: int, four_gpus: Path) -> None:
    assert hardware.accelerators(environ, four_gpus) == count


def test_accelerators_without_device_files(tmp_path: Path) -> None:
    (tmp_path / "proc/driver/nvidia/gpus/0000:01:00.0").mkdir(parents=True)
    assert hardware.accelerators({}, tmp_path) == 1
    assert hardware.accelerators({"NVIDIA_VISIBLE_DEVICES": "all"}, tmp_path / "nothing") == 0


@pytest.mark.parametrize(("flags", "dtype"), [
    ("fpu avx512f avx512_bf16", DType.bfloat16), ("amx_bf16 amx_int8", DType.bfloat16), ("fpu avx2", DType.float32),
])  # fmt: skip
def test_dtype_of_processors(flags: str, dtype: DType, tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nflags\t\t: {flags}\n")
    assert hardware.preferred_dtype(False, tmp_path / "cpuinfo") is dtype
    assert hardware.preferred_dtype(True, tmp_path / "cpuinfo") is DType.float16
    assert hardware.preferred_dtype(False, tmp_path / "nothing") is DType.float32


@pytest.mark.parametrize(("path", "content", "quota"), [
    ("cpu.max", "max 100000", None), ("cpu.max", "250000 100000", 2), ("a/cpu.max", "100000 100000", 1),
    ("a/b/cpu.max", "50000 100000", 1), ("other/cpu.max", "100000 100000", None),
])  # fmt: skip
def test_usable_cores(path: str, content: str, quota: int | None, tmp_path: Path) -> None:
    for name, text in {"proc/self/cgroup": "0::/a/b\n", f"sys/fs/cgroup/{path}": content}.items():
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    assert hardware.usable_cores(tmp_path, affinity=8) == (quota or 8)


def test_usable_cores_with_old_control_groups(tmp_path: Path) -> None:
    (tmp_path / "sys/fs/cgroup/cpu").mkdir(parents=True)
    (tmp_path / "sys/fs/cgroup/cpu/cpu.cfs_quota_us").write_text("100000\n")
    (tmp_path / "sys/fs/cgroup/cpu/cpu.cfs_period_us").write_text("100000\n")
    assert hardware.usable_cores(tmp_path) == 1


def test_compute_type(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number, name in enumerate(["NVIDIA A10G", "NVIDIA H100 80GB HBM3"]):
        file = tmp_path / f"proc/driver/nvidia/gpus/0000:0{number}:00.0/information"
        file.parent.mkdir(parents=True)
        file.write_text(f"Model: \t\t {name}\nIRQ:   \t\t 16\n")
    assert hardware.compute_type(2, gpu=True, root=tmp_path) == "2-nvidia-a10g"
    assert hardware.compute_type(2, gpu=False, root=tmp_path) == "2-cpu"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert hardware.compute_type(1, gpu=True, root=tmp_path / "nothing") == "gpu+optimized"
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'NVIDIA GeForce RTX 4090'\necho 'NVIDIA A10G'\n")
    program.chmod(0o755)
    assert hardware.compute_type(1, gpu=True, root=tmp_path / "nothing") == "1-nvidia-geforce-rtx-4090"
    program.write_text("#!/bin/sh\necho no devices\nexit 9\n")
    assert hardware.compute_type(1, gpu=True, root=tmp_path / "nothing") == "gpu+optimized"


def test_this_machine() -> None:
    assert hardware.usable_cores() >= 1
    assert hardware.torch_knows_cuda() in (True, False)

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
    assert hardware.torch_knows_cuda() in (True, False)

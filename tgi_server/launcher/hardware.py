"""The accelerators of this machine and what its processor computes, found without torch."""

from __future__ import annotations

import importlib.util
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path

from tgi_server.config.schema import DType


def accelerators(environ: Mapping[str, str], root: Path = Path("/")) -> int:
    """How many GPUs the shards will see: those of the machine, as far as the visibility variables allow.

    Args:
        environ: CUDA_VISIBLE_DEVICES decides, NVIDIA_VISIBLE_DEVICES where that is not set, else all count.
        root: where /dev and /proc are.
    """
    present = len(list(root.glob("dev/nvidia[0-9]*"))) or len(list(root.glob("proc/driver/nvidia/gpus/*")))
    allowed = environ.get("CUDA_VISIBLE_DEVICES", environ.get("NVIDIA_VISIBLE_DEVICES", "all"))
    return min(present, _listed(allowed, present))


def _listed(visible: str, present: int) -> int:
    """Devices that a visibility variable names; the list ends at the first entry that is none."""
    if visible.strip() == "all":
        return present
    count = 0
    for entry in visible.split(","):
        if not re.fullmatch(r"\d+|(GPU|MIG)-.+", entry.strip()):
            break
        count += 1
    return count


def compute_type(num_shard: int, gpu: bool, root: Path = Path("/")) -> str:
    """What clients are told of the machine: 2-nvidia-a10g, or 1-cpu where no `gpu` is used."""
    if not gpu:
        return f"{num_shard}-cpu"
    name = re.sub(r"[^!-~]+", "-", _gpu_name(root).lower())
    return f"{num_shard}-{name}" if name else "gpu+optimized"


def _gpu_name(root: Path) -> str:
    """Of the first GPU, as the driver's files tell, else nvidia-smi; empty when neither does."""
    for file in sorted(root.glob("proc/driver/nvidia/gpus/*/information")):
        if model := re.search(r"^Model:\s*(\S.*?)\s*$", file.read_text(), re.MULTILINE):
            return model[1]
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ""
    return next(iter(told.splitlines()), "").strip()


def torch_knows_cuda() -> bool:
    """Whether the installed torch was built for GPUs; read from its version file, as importing it takes seconds."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return False
    version = Path(spec.origin).with_name("version.py")
    return version.exists() and not re.search(r"^cuda\b.*= None$", version.read_text(), re.MULTILINE)


def preferred_dtype(gpu: bool, cpuinfo: Path = Path("/proc/cpuinfo")) -> DType:
    """float16 on GPUs; on processors bfloat16 where it is computed natively, else float32."""
    if gpu:
        return DType.float16
    native = cpuinfo.exists() and re.search(r"\b(avx512_bf16|amx_bf16)\b", cpuinfo.read_text())
    return DType.bfloat16 if native else DType.float32

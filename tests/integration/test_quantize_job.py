"""`job=quantize` as a user runs it: whole, killed and gone on with, stopped, refused."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers

from tests.models import Steps, needs
from tests.unit.compress.random_models import write
from tgi_server.compress import start
from tgi_server.compress.options import Method
from tgi_server.compress.work import partial
from tgi_server.config.schema import ServerConfig
from tgi_server.errors import TgiError
from tgi_server.jobs.quantize import Quantize
from tgi_server.launcher.origin import Model
from tgi_server.launcher.supervise import StopSignals

SMALL = ["job.group_size=32", "job.samples=6", "job.sample_tokens=32"]
KILLED = """
import os, signal, sys
from tgi_server.compress import worker
from tgi_server.compress.task import Task

def report(stage, fraction):
    if fraction > {fraction}:
        os.kill(os.getpid(), signal.SIGKILL)

worker.work(Task.read(sys.argv[1]), report)
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("float")
    write(directory, "llama", torch.bfloat16)
    core = Tokenizer(models.WordLevel({f"w{n}": n for n in range(50)}, "w0"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    core.save(str(directory / "tokenizer.json"))
    (directory / "text.txt").write_text(" ".join(f"w{n * n % 47}" for n in range(400)))
    (directory / "generation_config.json").write_text('{"temperature": 0.5}')
    return directory


def quantize(model: Path, out: Path, *more: str) -> subprocess.CompletedProcess[str]:
    options = [f"model_id={model}", f"job.out={out}", f"job.calibration={model / 'text.txt'}", *SMALL, *more]
    command = [sys.executable, "-m", "tgi_server", "job=quantize", *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=100)


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_gptq_killed_twice_gives_the_same_files(model: Path, tmp_path: Path) -> None:
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    done = quantize(model, whole)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not partial(whole).exists()
    options = Quantize(
        out=str(resumed), group_size=32, samples=6, sample_tokens=32, calibration=str(model / "text.txt")
    )
    task = start.task_of(options, Model(model), resumed).text()
    for fraction in (0.4, 0.8):
        killed = subprocess.run([sys.executable, "-c", KILLED.format(fraction=fraction), task], timeout=60)
        assert killed.returncode == -signal.SIGKILL
        assert not resumed.exists()
    assert (partial(resumed) / "block-00000.safetensors").exists()
    other = quantize(model, resumed, "job.bits=8")
    assert (other.returncode, "bits=4" in other.stderr) == (1, True), other.stderr
    again = quantize(model, resumed)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "layer 1 of 2" not in again.stdout
    assert contents(resumed) == contents(whole)
    check_gptq(model, whole)
    (tmp_path / "dense").mkdir()
    check_served(whole, tmp_path / "dense", awq=False)
    third = quantize(model, whole)
    assert third.returncode == 1 and "it exists already" in third.stderr


def check_gptq(model: Path, out: Path) -> None:
    config, plain = (json.loads((place / "config.json").read_text()) for place in (out, model))
    own: dict[str, Any] = config.pop("quantization_config")
    assert config == plain
    assert own == json.loads((out / "quantize_config.json").read_text())
    kept = {"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": True, "sym": False}
    assert kept.items() <= own.items() and own["checkpoint_format"] == "gptq"
    tensors, before = load_file(out / "model.safetensors"), load_file(model / "model.safetensors")
    name = "model.layers.1.mlp.down_proj"
    assert f"{name}.weight" not in tensors and tensors[f"{name}.qweight"].shape == (12, 64)
    assert torch.equal(tensors["model.embed_tokens.weight"], before["model.embed_tokens.weight"])
    q, k = (tensors[f"model.layers.0.self_attn.{kind}_proj.g_idx"] for kind in "qk")
    assert torch.equal(q, k) and not torch.equal(q, q.sort().values)
    assert contents(out)["generation_config.json"] == contents(model)["generation_config.json"]
    assert contents(out)["tokenizer.json"] == contents(model)["tokenizer.json"]


def codes(words: torch.Tensor, bits: int) -> torch.Tensor:
    """Codes that lie along the first axis of words, from the lowest bits on."""
    spread = (words.long().unsqueeze(1) >> torch.arange(32).view(1, -1, 1)) & 1
    return (spread.reshape(-1, bits, words.shape[1]) << torch.arange(bits).view(1, -1, 1)).sum(1)


def widened(tensors: dict[str, torch.Tensor], layer: str, awq: bool) -> torch.Tensor:
    """Float32 `[out, in]`, by the formats' public descriptions."""
    words, zeros, scales = (tensors.pop(f"{layer}.{kind}") for kind in ("qweight", "qzeros", "scales"))
    if awq:
        places = [0, 4, 1, 5, 2, 6, 3, 7]  # of outputs 0, 1, ... in a word
        numbers, middles = (codes(x.t(), 4).view(-1, 8, len(x))[:, places].flatten(0, 1).t() for x in (words, zeros))
        groups = torch.arange(len(numbers)) // (len(numbers) // len(middles))
    else:
        numbers, middles = codes(words, 4), codes(zeros.t(), 4).t() + 1
        groups = tensors.pop(f"{layer}.g_idx").long()
    return ((numbers - middles[groups]) * scales.float()[groups]).t().contiguous()


def check_served(out: Path, dense: Path, awq: bool) -> None:
    """This server reads the checkpoint as if its weights were written out."""
    config = json.loads((out / "config.json").read_text())
    del config["quantization_config"]
    (dense / "config.json").write_text(json.dumps(config))
    tensors = load_file(out / "model.safetensors")
    for layer in [name.removesuffix(".qweight") for name in tensors if name.endswith(".qweight")]:
        tensors[f"{layer}.weight"] = widened(tensors, layer, awq)
    save_file(tensors, dense / "model.safetensors")
    prompt = [[3, 1, 4, 1, 5, 9, 2, 6]]
    found, expected = (Steps(place, prompt, needs(plain=True)).logits([0], [8])[0] for place in (out, dense))
    assert (found - expected).abs().max() < 1e-4 * expected.abs().max()


def test_awq(model: Path, tmp_path: Path) -> None:
    done = quantize(model, tmp_path / "out", "job.method=awq")
    assert done.returncode == 0, done.stdout + done.stderr
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["quantization_config"] == {
        "quant_method": "awq", "bits": 4, "group_size": 32, "zero_point": True, "version": "gemm",
        "modules_to_not_convert": None,
    }  # fmt: skip
    tensors = load_file(tmp_path / "out" / "model.safetensors")
    assert tensors["model.layers.0.self_attn.k_proj.qweight"].shape == (64, 4)
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float16, torch.int32}
    (tmp_path / "dense").mkdir()
    check_served(tmp_path / "out", tmp_path / "dense", awq=True)


@pytest.mark.parametrize(("arguments", "status", "words"), [
    (["job.bits=5"], 1, ["bits=5", "2, 3, 4 or 8"]),
    (["job.bits=9"], 2, ["bits=9", "at most 8"]),
    (["job.group_size=64"], 1, ["group_size=64", "down_proj has 96 inputs", "32 and -1"]),
    (["job.samples=60"], 1, ["job.samples=60", "job.samples=12 works"]),
    (["job.calibration=/none"], 1, ["calibration=/none", "no such file"]),
    (["port=8000"], 2, ["port=8000", "no effect on job=quantize"]),
    ([f"job.out=/tmp/{'x' * 300}"], 1, ["out=/tmp/xxx", "File name too long"]),
    ([f"job.out={__file__}/out"], 1, ["test_quantize_job.py is no directory that can be written to"]),
    (["job.method=rtn"], 2, ["method=rtn", "gptq, awq"]),
    (["model_id=/none"], 1, ["/none", "does not exist"]),
])  # fmt: skip
def test_mistakes_are_one_line(
    model: Path, tmp_path: Path, arguments: list[str], status: int, words: list[str]
) -> None:
    done = quantize(model, tmp_path / "out", *arguments)
    errors = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    assert done.returncode == status and len(errors) == 1 and "Traceback" not in done.stderr, done.stderr
    for word in words:
        assert word in errors[0]
    assert not (tmp_path / "out").exists()


def test_a_model_that_is_quantised_already(model: Path, tmp_path: Path) -> None:
    config = json.loads((model / "config.json").read_text())
    for path in model.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "config.json").write_text(json.dumps({**config, "quantization_config": {"quant_method": "gptq"}}))
    done = quantize(tmp_path, tmp_path / "out")
    assert done.returncode == 1 and "quantised already (gptq)" in done.stderr


class Stopped(StopSignals):
    """A signal came."""

    @property
    def requested(self) -> bool:
        return True


def test_a_signal_leaves_what_can_be_gone_on_with(model: Path, tmp_path: Path) -> None:
    options = Quantize(out=str(tmp_path / "out"), method=Method.awq, group_size=32, samples=2, sample_tokens=16)
    with pytest.raises(TgiError, match="the same command goes on"):
        start.quantise(options, ServerConfig(model_id=str(model)), {}, Stopped())
    assert not (tmp_path / "out").exists()

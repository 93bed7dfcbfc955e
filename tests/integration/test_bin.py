"""Checkpoints in .bin files (pickles): converted once, and never run."""

from __future__ import annotations

import json
import os
import pickle
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.hub_server import COMMIT, Repository, running
from tgi_server.config.schema import DType, ModelOptions
from tgi_server.errors import ModelError
from tgi_server.launcher import weights
from tgi_server.launcher.unpickle import convert

CONFIG = {
    "model_type": "llama", "vocab_size": 8, "hidden_size": 4, "intermediate_size": 8, "num_hidden_layers": 1,
    "num_attention_heads": 2, "max_position_embeddings": 16, "rms_norm_eps": 1e-5,
}  # fmt: skip
TWO = ("pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin")


def ignore(stage: str, fraction: float) -> None:
    pass


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model without weights, at a path that needs quoting."""
    directory = tmp_path / "ein Modell ☃"
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(CONFIG))
    (directory / "tokenizer.json").write_text("{}")
    return directory


def tensors() -> dict[str, torch.Tensor]:
    """All kinds a checkpoint may hold: shared, transposed, a slice, a parameter, empty, without a dimension."""
    base = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    return {
        "embedding": base,
        "head": base,
        "transposed": base.T,
        "slice": base[1:3, 1:],
        "parameter": torch.nn.Parameter(base.bfloat16()),
        "half": base.half(),
        "small": base.to(torch.float8_e4m3fn),
        "integers": torch.arange(5),
        "flags": base > 0,
        "empty": torch.zeros(0, 3),
        "number": torch.tensor(7.0),
    }


def fetch(model: Path, **options: Any) -> Path:
    given = ModelOptions(model_id=str(model), conversion_cache=str(model.parent / "cache"), **options)
    return weights.fetch(given, DType.float32, ignore).directory


def stored(directory: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for path in directory.glob("*.safetensors") for name, tensor in load_file(path).items()}


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype is tensor.dtype
        assert torch.equal(found[name].float(), tensor.float())


def test_a_directory_is_converted_once(model: Path) -> None:
    torch.save({"state_dict": tensors()}, model / "pytorch_model.bin")
    torch.save({"not": "weights"}, model / "training_args.bin")
    directory = fetch(model)
    assert_same(stored(directory), tensors())
    assert (directory / "config.json").samefile(model / "config.json")
    seen: list[str] = []
    options = ModelOptions(model_id=str(model), conversion_cache=str(model.parent / "cache"))
    assert weights.fetch(options, DType.float32, lambda stage, _: seen.append(stage)).directory == directory
    assert seen == []

    (model / "chat_template.jinja").write_text("{{ messages }}")
    assert (fetch(model) / "chat_template.jinja").exists(), "files beside the weights do not stay as they once were"
    os.utime(model / "pytorch_model.bin", ns=(1, 1))
    assert fetch(model) != directory
    assert len(list((model.parent / "cache" / "bin").glob("*-*"))) == 2


def test_several_files_and_launchers_at_once(model: Path) -> None:
    parts = [{"a": torch.ones(3), "b": torch.zeros(2)}, {"c": torch.ones(1)}]
    torch.save(parts[0], model / TWO[0])
    torch.save(parts[1], model / TWO[1], _use_new_zipfile_serialization=False)  # as before torch 1.6
    found: list[Path] = []
    threads = [threading.Thread(target=lambda: found.append(fetch(model))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 2
    assert found[0] == found[1]
    assert_same(stored(found[0]), parts[0] | parts[1])


def test_a_repository_without_safetensors(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save({"a": torch.ones(3)}, model / TWO[0])
    torch.save({"b": torch.ones(3)}, model / TWO[1])
    index = {"weight_map": {"a": TWO[0], "b": TWO[1]}}
    (model / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    files = {path.name: path.read_bytes() for path in model.iterdir()}
    place = {"huggingface_hub_cache": str(model.parent / "hub"), "conversion_cache": str(model.parent / "cache")}
    options = ModelOptions(model_id="org/old", **place)  # type: ignore[arg-type]
    with running() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        hub.repositories["org/old"] = Repository({COMMIT: {**files, "optimizer.bin": b"not wanted"}})
        directory = weights.fetch(options, DType.float32, ignore).directory
        assert hub.asked_for("GET", "/optimizer.bin") == 0
        hub.requests.clear()
        assert weights.fetch(options, DType.float32, ignore).directory == directory
        assert hub.requests == []
    assert stored(directory).keys() == {"a", "b"}


def test_nothing_is_converted_where_it_cannot_be_served(model: Path) -> None:
    torch.save({"a": torch.ones(3)}, model / TWO[0])
    with pytest.raises(ModelError, match=rf"lacks the weight file {TWO[1]}$"):
        fetch(model)
    (model / TWO[0]).rename(model / "pytorch_model.bin")
    (model / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ModelError, match=r"model_type 'bert' is not served"):
        fetch(model)
    assert not (model.parent / "cache").exists()


class Evil:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch '{self.path}'",)


@pytest.mark.parametrize("kind", ["zip", "legacy", "pickle", "text"])
def test_a_pickle_that_wants_to_run_code_is_refused(model: Path, tmp_path: Path, kind: str) -> None:
    mark = tmp_path / "mark"
    file = model / "pytorch_model.bin"
    if kind in ("zip", "legacy"):
        torch.save({"a": torch.ones(2), "b": Evil(mark)}, file, _use_new_zipfile_serialization=kind == "zip")
    elif kind == "pickle":
        file.write_bytes(pickle.dumps(Evil(mark), protocol=2))
    else:
        file.write_bytes(f"cos\nsystem\n(S'touch {mark}'\ntR.".encode())
    with pytest.raises(ModelError, match=r"\.bin wants to call (posix|os)\.system when .* none of its code has run$"):
        convert(model, [file.name], model, ignore)
    assert not mark.exists()
    with file.open("rb") as opened:
        if kind in ("pickle", "text"):
            pickle.load(opened)
            assert mark.exists(), "the file is as malicious as this test believes"


def test_the_refusal_is_all_that_is_said(model: Path, capfd: pytest.CaptureFixture[str]) -> None:
    torch.save({"a": Evil(model / "mark")}, model / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"wants to call posix\.system") as caught:
        fetch(model)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")
    assert list((model.parent / "cache" / "bin").iterdir()) == [model.parent / "cache" / "bin" / ".lock"]


def cut(path: Path) -> None:
    torch.save(tensors(), path)
    os.truncate(path, path.stat().st_size // 2)


def cut_legacy(path: Path) -> None:
    torch.save(tensors(), path, _use_new_zipfile_serialization=False)
    os.truncate(path, path.stat().st_size - 100)


def huge(path: Path) -> None:
    path.touch()
    os.truncate(path, 1 << 40)


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty": (lambda path: path.write_bytes(b""), r"cannot be read: EOFError"),
    "no pickle": (lambda path: path.write_bytes(b"<html>"), r"is damaged, or no checkpoint of torch"),
    "cut": (cut, r"cannot be read: "),
    "cut legacy": (cut_legacy, r"cannot be read: "),
    "sparse and huge": (huge, r"cannot be read: Cannot use [^.]* legacy \.tar format$"),
    "a list": (lambda path: torch.save([torch.ones(1)], path), r"holds no tensors by name$"),
    "no tensor": (lambda path: torch.save({"epoch": 3}, path), r"'epoch' is no tensor$"),
    "complex": (lambda path: torch.save({"a": torch.ones(1) * 1j}, path), r"a is of the kind .*complex64"),
    "sparse tensor": (lambda path: torch.save({"a": torch.eye(3).to_sparse()}, path), r"a is of the kind .*sparse"),
    "claims": (lambda path: torch.save({"a": torch.ones(1).expand(1 << 40)}, path), r"a claims more values"),
}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_refused_in_one_line(model: Path, damage: str) -> None:
    act, message = DAMAGE[damage]
    act(model / "pytorch_model.bin")
    with pytest.raises(ModelError, match=message) as caught:
        convert(model, ["pytorch_model.bin"], model, ignore)
    assert "\n" not in str(caught.value)
    assert str(model) in str(caught.value)


def test_a_tensor_in_two_files(model: Path) -> None:
    for name in TWO:
        torch.save({"a": torch.ones(3)}, model / name)
    with pytest.raises(ModelError, match=rf"{TWO[1]}: the tensor a is in another file, too$"):
        convert(model, list(TWO), model, ignore)

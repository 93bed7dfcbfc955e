"""Which files hold the weights, and what their headers say; the launcher's refusals are in tests/unit/launcher."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tgi_server.errors import ModelError
from tgi_server.models.files import ITEM_BITS, TensorInfo, headers, weight_files

INDEX = "model.safetensors.index.json"


def make(directory: Path, *names: str) -> None:
    for number, name in enumerate(names):
        save_file({f"t{number}": np.ones(3)}, directory / name)


@pytest.mark.parametrize(("there", "named", "expected"), [
    (["model.safetensors", "other.safetensors"], [], ["model.safetensors"]),
    (["b.safetensors", "a.safetensors"], [], ["a.safetensors", "b.safetensors"]),
    (["a.safetensors", "consolidated.safetensors", "adapter_model.safetensors"], [], ["a.safetensors"]),
    (["a.safetensors", "b.safetensors", "model.safetensors"], ["b.safetensors"], ["b.safetensors"]),
    (["x-00001-of-00002.safetensors", "x-00002-of-00002.safetensors"], [],
     ["x-00001-of-00002.safetensors", "x-00002-of-00002.safetensors"]),
])  # fmt: skip
def test_which_files_count(there: list[str], named: list[str], expected: list[str], tmp_path: Path) -> None:
    make(tmp_path, *there)
    if named:
        (tmp_path / INDEX).write_text(json.dumps({"weight_map": {f"t{i}": name for i, name in enumerate(named)}}))
    assert weight_files(tmp_path) == [tmp_path / name for name in expected]


@pytest.mark.parametrize(("there", "words"), [
    ([], "has no weights"),
    (["consolidated.safetensors"], "has no weights"),
    (["x-00002-of-00002.safetensors"], r"lacks the weight file x-00001-of-00002\.safetensors"),
    (["pytorch_model.bin"], r"holds its weights as \.bin files only"),
])  # fmt: skip
def test_what_cannot_be_read(there: list[str], words: str, tmp_path: Path) -> None:
    make(tmp_path, *there)
    with pytest.raises(ModelError, match=words):
        weight_files(tmp_path)


def test_headers_say_where_every_number_is(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    tensors: dict[str, Any] = {
        "matrix": generator.normal(size=(3, 5)).astype(np.float32), "half": generator.normal(size=7).astype(np.float16),
        "words": np.arange(6, dtype=np.int32).reshape(1, 2, 3), "scalar": np.array(4.0), "empty": np.zeros((0, 4)),
    }  # fmt: skip
    save_file(dict(list(tensors.items())[:2]), tmp_path / "a.safetensors", {"format": "pt"})
    save_file(dict(list(tensors.items())[2:]), tmp_path / "b.safetensors")
    found = headers(tmp_path)
    assert set(found) == set(tensors)
    codes = {"matrix": "F32", "half": "F16", "words": "I32", "scalar": "F64", "empty": "F64"}
    for name, tensor in tensors.items():
        info = found[name]
        assert (info.dtype, info.shape, info.bytes) == (codes[name], tensor.shape, tensor.nbytes)
        assert name in load_file(info.file)
        assert info.file.read_bytes()[info.offset : info.offset + info.bytes] == tensor.tobytes()
        assert info.dtype in ITEM_BITS


def test_a_tensor_is_in_one_file(tmp_path: Path) -> None:
    save_file({"a": np.ones(3)}, tmp_path / "x.safetensors")
    begin = (tmp_path / "x.safetensors").stat().st_size - 24
    assert headers(tmp_path) == {"a": TensorInfo(tmp_path / "x.safetensors", "F64", (3,), begin, 24)}
    save_file({"a": np.ones(3)}, tmp_path / "y.safetensors")
    with pytest.raises(ModelError, match=r"the tensor a is in two files: .*x\.safetensors and .*y\.safetensors"):
        headers(tmp_path)

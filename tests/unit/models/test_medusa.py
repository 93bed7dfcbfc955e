"""Which tensors are Medusa heads, how many there are, and what is said of those that do not fit."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.medusa_heads import random_heads, write_heads
from tests.models import CONFIG, HIDDEN, VOCABULARY, write_llama
from tgi_server.errors import ConfigError, FitError, ModelError
from tgi_server.models import medusa
from tgi_server.models.description import Description
from tgi_server.models.families import read_spec


@pytest.fixture
def spec(tmp_path: Path) -> Description:
    (tmp_path / "base").mkdir()
    write_llama(tmp_path / "base")
    return read_spec(tmp_path / "base")


@pytest.mark.parametrize("prefix", ["", "medusa_head.", "base.medusa_heads."])
@pytest.mark.parametrize(("heads", "layers", "shared"), [(5, 1, False), (2, 3, True), (1, 0, False), (12, 2, True)])
def test_heads_are_counted_from_the_tensors(
    spec: Description, tmp_path: Path, prefix: str, heads: int, layers: int, shared: bool
) -> None:
    tensors = {prefix + name: x for name, x in random_heads(HIDDEN, VOCABULARY, heads, layers, shared).items()}
    found = medusa.read(write_heads(tmp_path / "heads", tensors, "base"), spec)
    assert (found.prefix, found.count, found.layers, found.shared) == (prefix, heads, layers, shared)
    names = {f"{found.layer(n, m)}.{kind}" for n in range(heads) for m in range(layers) for kind in ("weight", "bias")}
    names |= set() if shared else {f"{found.projection(n)}.weight" for n in range(heads)}
    assert names == tensors.keys()
    size = layers * HIDDEN * HIDDEN * 2 + (0 if shared else VOCABULARY * HIDDEN)
    assert found.bytes(2, None) == heads * size
    assert found.bytes(2, 1) == size


def test_heads_among_a_models_own_weights(spec: Description, tmp_path: Path) -> None:
    base, tensors = tmp_path / "base", random_heads(HIDDEN, VOCABULARY)
    own = load_file(base / "model.safetensors")
    save_file(own | {f"medusa_head.{name}": x for name, x in tensors.items()}, base / "model.safetensors")
    assert medusa.names(base) == [], "they were not announced"
    (base / "config.json").write_text(json.dumps(CONFIG | {"medusa_num_heads": 3}))
    assert set(medusa.names(base)) == {f"medusa_head.{name}" for name in tensors}
    assert not medusa.is_alone(base)
    found = medusa.read(base, spec)
    assert (found.count, found.prefix, set(found.tensors)) == (3, "medusa_head.", set(medusa.names(base)))


WRONG: dict[str, tuple[Callable[[dict[str, Tensor]], object], str]] = {
    "nothing": (lambda t: [*map(t.pop, [*t])], r"has no Medusa heads, that is tensors such as"),
    "a head is left out": (
        lambda t: [t.pop(name) for name in [*t] if name.startswith("1.")],
        r"tensor 1\.0\.linear\.weight is missing; .*tensor 2\.0\.linear\.weight is part of no head",
    ),
    "half of a layer": (lambda t: t.pop("2.0.linear.bias"), r"tensor 2\.0\.linear\.bias is missing"),
    "one projection": (lambda t: t.pop("0.1.weight"), r"tensor 0\.1\.weight is missing"),
    "of a wider model": (
        lambda t: t.update({"1.0.linear.weight": torch.ones(HIDDEN + 1, HIDDEN + 1)}),
        r"tensor 1\.0\.linear\.weight has the shape \[65, 65\], \[64, 64\] was expected",
    ),
    "of another vocabulary": (
        lambda t: t.update({"1.1.weight": torch.ones(VOCABULARY + 3, HIDDEN)}),
        r"tensor 1\.1\.weight has the shape \[53, 64\], \[50, 64\] was expected",
    ),
    "whole numbers": (
        lambda t: t.update({"0.1.weight": torch.ones(VOCABULARY, HIDDEN, dtype=torch.int32)}),
        r"tensor 0\.1\.weight is of the type I32; F16, BF16, F32, F64 are served",
    ),
    "another kind": (
        lambda t: t.update({"sequential_head.weight": torch.ones(3)}),
        r"tensor sequential_head\.weight is part of no head as known here",
    ),
    "a name far away": (
        lambda t: t.update({"9999.9999.weight": torch.ones(3)}), r"tensor 9999\.9999\.weight is part of no head",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_what_does_not_fit_is_told_in_one_line(spec: Description, tmp_path: Path, name: str) -> None:
    change, message = WRONG[name]
    tensors = random_heads(HIDDEN, VOCABULARY)
    change(tensors)
    directory = write_heads(tmp_path / "heads", tensors, "base")
    with pytest.raises(FitError, match=message) as caught:
        medusa.read(directory, spec)
    assert str(directory) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith("speculate=0 serves the model without them")


def test_a_damaged_file(spec: Description, tmp_path: Path) -> None:
    directory = write_heads(tmp_path / "heads", random_heads(HIDDEN, VOCABULARY), "base")
    (directory / medusa.WEIGHTS).write_bytes(struct.pack("<Q", 7))
    with pytest.raises(ModelError, match=r"medusa_lm_head\.safetensors is truncated"):
        medusa.read(directory, spec)


@pytest.mark.parametrize(
    ("config", "alone"),
    [({}, True), ({"model_type": ""}, True), ({"model_type": "medusa"}, True), ({"model_type": "llama"}, False)],
)
def test_heads_alone_have_no_model_type(tmp_path: Path, config: dict[str, Any], alone: bool) -> None:
    assert medusa.is_alone(write_heads(tmp_path, {}, "org/base", **config)) == alone
    assert medusa.base(tmp_path) == ("org/base", None)


def test_a_configuration_without_heads(tmp_path: Path) -> None:
    assert not medusa.is_alone(tmp_path)
    (tmp_path / "config.json").write_text('{"medusa_num_heads": 3')
    assert not medusa.is_alone(tmp_path)
    (tmp_path / "config.json").write_text('{"medusa_num_heads": 3, "base_model_name_or_path": 7}')
    with pytest.raises(ModelError, match=r"config\.json: base_model_name_or_path=7 \(text is expected\)$"):
        medusa.base(tmp_path)


def test_more_guesses_than_heads(spec: Description, tmp_path: Path) -> None:
    heads = medusa.read(write_heads(tmp_path / "heads", random_heads(HIDDEN, VOCABULARY), "base"), spec)
    for works in (None, 0, 1, 3):
        medusa.check(heads, works)
    with pytest.raises(ConfigError, match=r"^speculate=4: the checkpoint has 3 Medusa heads; speculate=3 works"):
        medusa.check(heads, 4)

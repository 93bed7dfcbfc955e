"""Layers of awq, gptq and compressed-tensors, assembled as the formats are described, against their float weights."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from tests.families.harness import ThreadGroup
from tests.models import needs
from tests.unit.quantize.checkpoints import Layer
from tgi_server.errors import ModelError
from tgi_server.kernels.formats import Grouped, GroupedByteInputs
from tgi_server.models.checkpoint import Checkpoint
from tgi_server.models.spec import Source
from tgi_server.models.weights import WeightLoader
from tgi_server.quantize.base import Activations, Cut
from tgi_server.quantize.gptq import Gptq
from tgi_server.quantize.packed.layouts import AwqLayout, CompressedLayout, GptqLayout, Packed
from tgi_server.quantize.settings import Settings

EXACT = Activations.exact
BITS = pytest.mark.parametrize("bits", [2, 3, 4, 8])
SIZES = pytest.mark.parametrize("size", [32, 64, 128, -1, 40], ids=lambda size: f"g{size}")
"""Of groups; 128 is more than there are inputs, of 40 the last group has fewer."""
INPUTS = 96
Stored = tuple[Packed, dict[str, Tensor]]


def gptq(layer: Layer, version: int = 1, g_idx: bool = True) -> Stored:
    reader = GptqLayout(layer.bits, layer.group_size, not layer.symmetric, EXACT, less=2 - version)
    return reader, layer.gptq(version, g_idx)


def awq(layer: Layer) -> Stored:
    return AwqLayout(layer.bits, layer.group_size, not layer.symmetric, EXACT), layer.awq()


def compressed(layer: Layer) -> Stored:
    reader = CompressedLayout(layer.bits, layer.group_size, not layer.symmetric, EXACT, layer.act_order)
    return reader, layer.compressed()


SPELLINGS = pytest.mark.parametrize("spelled", [gptq, awq, compressed])


def read(stored: Stored) -> Grouped:
    reader, tensors = stored
    found = reader.read(tensors)
    assert isinstance(found, Grouped)
    return found


def fits(stored: Stored, layer: Layer) -> None:
    """Whether the loader would take such tensors for such a layer."""
    reader, tensors = stored
    for name, tensor in tensors.items():
        assert reader.stored()[name].fits(tuple(tensor.shape), layer.outputs, layer.inputs), name
    assert all(name in tensors or one.optional for name, one in reader.stored().items())


@BITS
@SIZES
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("act_order", [True, False])
def test_gptq_and_compressed(bits: int, size: int, symmetric: bool, act_order: bool) -> None:
    layer = Layer(32, INPUTS, bits, size, symmetric, act_order)
    for stored in (gptq(layer), gptq(layer, version=2), compressed(layer)):
        fits(stored, layer)
        found = read(stored)
        assert torch.equal(found.widened(torch.float32), layer.dense())
        assert found.bits == (8 if bits == 8 else 4)
        assert (found.offset is None) == symmetric  # kernels need none


@SIZES
def test_awq(size: int) -> None:
    layer = Layer(32, INPUTS, 4, size)
    fits(awq(layer), layer)
    assert torch.equal(read(awq(layer)).widened(torch.float32), layer.dense())


@pytest.mark.parametrize("instead", [None, torch.zeros(0), torch.zeros(INPUTS), torch.full((INPUTS,), -1)])
def test_an_order_that_is_none(instead: Tensor | None) -> None:
    layer = Layer(32, INPUTS, 4, 32)
    reader, tensors = gptq(layer, g_idx=False)
    if instead is not None:
        tensors["g_idx"] = instead.int()
    fits((reader, tensors), layer)
    assert torch.equal(read((reader, tensors)).widened(torch.float32), layer.dense())


def test_a_zero_of_0_is_stored_as_minus_1() -> None:
    layer = Layer(32, INPUTS, 4, 32)
    layer.zero[:] = 0
    reader, tensors = gptq(layer)
    assert (tensors["qzeros"] == -1).all()
    assert torch.equal(read((reader, tensors)).widened(torch.float32), layer.dense())


def test_an_asymmetric_layer_keeps_its_offset_whatever_it_is() -> None:
    """So that it can be joined with others of its checkpoint."""
    layer = Layer(32, INPUTS, 4, 32, symmetric=True)
    kept = GptqLayout(4, 32, True, EXACT, less=1).read(layer.gptq())
    assert isinstance(kept, Grouped) and kept.offset is not None and not kept.offset.any()


@SPELLINGS
def test_inputs_of_8_bits_are_another_format(spelled: Any) -> None:
    reader, tensors = spelled(Layer(32, INPUTS, 4, 32))
    found = replace(reader, activations=Activations.int8).read(tensors)
    assert type(found) is GroupedByteInputs
    assert type(reader.read(tensors)) is Grouped


@pytest.mark.parametrize("spelled", [gptq, compressed])
def test_outputs_that_do_not_fill_words(spelled: Any) -> None:
    layer = Layer(20, INPUTS, 4, 32)
    fits(spelled(layer), layer)
    assert torch.equal(read(spelled(layer)).widened(torch.float32), layer.dense())


def test_inputs_that_do_not_fill_words() -> None:
    layer = Layer(32, 44, 4, 16)
    for stored in (gptq(layer), compressed(layer)):
        fits(stored, layer)
        assert torch.equal(read(stored).widened(torch.float32), layer.dense())


def parts(directory: Path, stored: Stored, world: int) -> list[WeightLoader]:
    reader, tensors = stored
    save_file({f"w.{name}": tensor for name, tensor in tensors.items()}, directory / "model.safetensors")
    groups = ThreadGroup.of(world)
    return [WeightLoader(Checkpoint(directory), ("",), reader, group, needs(plain=True)) for group in groups]


CASES = {
    "gptq": lambda: gptq(Layer(64, 192, 4, 64)),
    "gptq_v2": lambda: gptq(Layer(64, 192, 4, 64, act_order=True), version=2),
    "act-order": lambda: gptq(Layer(64, 192, 4, 32, act_order=True)),
    "no order": lambda: gptq(Layer(64, 192, 4, 40), g_idx=False),
    "one group": lambda: gptq(Layer(64, 192, 4, -1)),
    "3 bits": lambda: gptq(Layer(64, 192, 3, 40, act_order=True)),
    "8 bits": lambda: gptq(Layer(64, 192, 8, 32)),
    "awq": lambda: awq(Layer(64, 192, 4, 40)),
    "compressed": lambda: compressed(Layer(64, 192, 4, 32)),
    "compressed, symmetric": lambda: compressed(Layer(64, 192, 4, -1, symmetric=True)),
    "compressed, act-order": lambda: compressed(Layer(64, 192, 4, 32, act_order=True)),
}
WORLDS = pytest.mark.parametrize("world", [1, 2, 3])


@WORLDS
@pytest.mark.parametrize("case", CASES)
def test_ranks_take_parts_of_the_outputs(tmp_path: Path, case: str, world: int) -> None:
    """Interleaved, as fused layers are: every second 8 outputs first."""
    stored = CASES[case]()
    dense = read(stored).widened(torch.float32).view(4, 2, 8, 192)
    source = Source("w", 4, 8, run=1, stride=16)
    other = Source("w", 4, 8, start=8, run=1, stride=16)
    for rank, load in enumerate(parts(tmp_path, stored, world)):
        part = (4 * rank // world, 4 * (rank + 1) // world)
        weight, _ = load.column_weight([source, other], [part, part])
        assert isinstance(weight, Grouped)
        expected = dense[slice(*part)].transpose(0, 1).reshape(-1, 192)
        assert torch.equal(weight.widened(torch.float32), expected)


@WORLDS
@pytest.mark.parametrize("case", CASES)
def test_ranks_take_parts_of_the_inputs(tmp_path: Path, case: str, world: int) -> None:
    stored = CASES[case]()
    dense = read(stored).widened(torch.float32)
    for rank, load in enumerate(parts(tmp_path, stored, world)):
        part = (6 * rank // world, 6 * (rank + 1) // world)
        weight, _ = load.row_weight(Source("w", 6, 32), part)
        assert isinstance(weight, Grouped)
        assert torch.equal(weight.widened(torch.float32), dense[:, 32 * part[0] : 32 * part[1]])
        assert weight.scale.shape[1] == len(set(weight.groups.tolist()))  # a rank has no other groups in memory


@SPELLINGS
def test_a_rank_without_outputs(spelled: Any) -> None:
    reader, tensors = spelled(Layer(32, INPUTS, 4, 32))
    none = {"qweight": (slice(None), slice(0)), "scales": (slice(None), slice(0)), "weight_packed": slice(0)}
    none["weight_scale"] = slice(0)
    cut = {name: tensor[none.get(name, slice(None))] for name, tensor in tensors.items()}
    assert reader.read(cut, Cut(outputs=((0, 0),))).widened(torch.float32).shape == (0, INPUTS)


def test_what_shares_a_word_cannot_be_cut(tmp_path: Path) -> None:
    load = parts(tmp_path, gptq(Layer(64, 192, 4, 64)), 1)[0]
    with pytest.raises(ModelError, match=r"tensor w\.qweight keeps 8 numbers together; it cannot be cut at 4 and 188"):
        load.row_weight(Source("w", 48, 4), (1, 47))


@pytest.mark.parametrize(("change", "words"), [
    ({"g_idx": torch.full((192,), 3)}, r"layer w\.qweight: g_idx names groups from 3 to 3; there are 3"),
    ({"g_idx": torch.arange(192) // 64 - 1}, r"layer w\.qweight: g_idx names groups from -1 to 1; there are 3"),
    ({"scales": torch.full((3, 64), torch.inf)}, r"layer w\.qweight: its scales are not all finite numbers"),
    ({"g_idx": torch.arange(96) // 32}, r"layer w\.qweight: g_idx has 96 inputs, and the layer more"),
])  # fmt: skip
def test_bad_numbers_are_named(tmp_path: Path, change: dict[str, Tensor], words: str) -> None:
    reader, tensors = gptq(Layer(64, 192, 4, 64))
    changed = {name: own.int() if name == "g_idx" else own for name, own in change.items()}
    load = parts(tmp_path, (reader, tensors | changed), 1)[0]
    with pytest.raises(ModelError, match=words):
        load.row_weight(Source("w", 6, 32), (3, 6))


@pytest.mark.parametrize("shape", [[64], [], [64, -1], [64, 0], [64, 96], [64, 193]])
def test_a_shape_that_cannot_be_meant(shape: list[int]) -> None:
    reader, tensors = compressed(Layer(64, 192, 4, 64))
    with pytest.raises(ValueError, match=rf"weight_shape is {re.escape(str(shape))}; its weight_packed holds 192 inp"):
        reader.read(tensors | {"weight_shape": torch.tensor(shape, dtype=torch.int64)})


@pytest.mark.parametrize(("settings", "needed"), [
    ({"desc_act": True}, True), ({"desc_act": False}, False), ({}, False),
    ({"desc_act": True, "static_groups": True}, False), ({"desc_act": True, "group_size": -1}, False),
])  # fmt: skip
def test_an_order_that_was_lost_is_missed(settings: dict[str, Any], needed: bool) -> None:
    """Without it every weight would get the scale of another."""
    said = Settings("config.json", {"quant_method": "gptq", "bits": 4, "group_size": 32, **settings})
    order = Gptq().reader(said).stored()["g_idx"]
    assert order.optional != needed and order.fits((0,), 64, 64) != needed


def test_an_odd_number_of_inputs_is_refused(tmp_path: Path) -> None:
    for stored in (awq(Layer(64, 35, 4, -1)), compressed(Layer(64, 35, 4, -1))):
        load = parts(tmp_path, stored, 1)[0]
        with pytest.raises(ModelError, match="35 inputs do not fill whole bytes"):
            load.column_weight([Source("w", 64)], [(0, 64)])

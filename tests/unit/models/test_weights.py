"""Layers cut out of a checkpoint: by ranks, out of fused, interleaved, transposed and packed tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from tests.families.harness import ThreadGroup
from tests.models import needs
from tgi_server.errors import ModelError
from tgi_server.kernels.formats import Format, Grouped, packed, unpacked
from tgi_server.layers.parallel import Group
from tgi_server.models.checkpoint import Checkpoint
from tgi_server.models.spec import NormSpec, Source, interleaved, side_by_side
from tgi_server.models.weights import WeightLoader
from tgi_server.quantize.base import IN, OUT, WHOLE, Axis, Cut, Reader, Stored
from tgi_server.quantize.none import NoQuantize


def loader(directory: Path, group: Group | None = None, quantize: Reader | None = None) -> WeightLoader:
    return WeightLoader(
        Checkpoint(directory), ("transformer.", ""), quantize or NoQuantize(), group or Group(), needs(plain=True)
    )


def both_ranks(directory: Path, quantize: Reader | None = None) -> list[WeightLoader]:
    return [loader(directory, group, quantize) for group in ThreadGroup.of(2)]


@pytest.mark.parametrize("transposed", [False, True])
def test_fused_layers(tmp_path: Path, transposed: bool) -> None:
    weight, bias = torch.randn(24, 10), torch.randn(24)
    stored = weight.T.contiguous() if transposed else weight
    save_file({"transformer.qkv.weight": stored, "transformer.qkv.bias": bias}, tmp_path / "model.safetensors")
    sources = side_by_side("qkv", [(4, 3), (2, 3), (2, 3)], bias=True, transposed=transposed)
    x = torch.randn(5, 10)
    whole = x @ weight.T + bias
    for rank, load in enumerate(both_ranks(tmp_path)):
        part = load.column(sources, [(2 * rank, 2 * rank + 2), (rank, rank + 1), (rank, rank + 1)])(x)
        columns = [
            *range(6 * rank, 6 * rank + 6),
            *range(12 + 3 * rank, 15 + 3 * rank),
            *range(18 + 3 * rank, 21 + 3 * rank),
        ]
        assert torch.allclose(part, whole[:, columns], atol=1e-5)


def test_interleaved_layers(tmp_path: Path) -> None:
    weight = torch.randn(2 * 4 * 3, 10)
    save_file({"qkv.weight": weight}, tmp_path / "model.safetensors")
    sources = interleaved("qkv", 2, [(2, 3), (1, 3), (1, 3)], bias=False)
    x = torch.randn(5, 10)
    whole = (x @ weight.T).view(5, 2, 12)
    got = loader(tmp_path).column(sources, [(0, 4), (0, 2), (0, 2)])(x)
    expected = torch.cat([whole[:, :, :6].flatten(1), whole[:, :, 6:9].flatten(1), whole[:, :, 9:].flatten(1)], 1)
    assert torch.allclose(got, expected, atol=1e-5)


def test_many_pieces_are_read_at_once(tmp_path: Path) -> None:
    weight = torch.randn(400, 8)
    save_file({"gate_up.weight": weight}, tmp_path / "model.safetensors")
    gate, up = (Source("gate_up", 200, start=i, run=1, stride=2) for i in (0, 1))
    x = torch.randn(3, 8)
    got = loader(tmp_path).column([gate, up], [(10, 150)] * 2)(x)
    assert torch.allclose(got, x @ torch.cat((weight[20:300:2], weight[21:300:2])).T, atol=1e-5)


@pytest.mark.parametrize("transposed", [False, True])
def test_rows_sum_to_the_whole(tmp_path: Path, transposed: bool) -> None:
    weight, bias = torch.randn(7, 12), torch.randn(7)
    stored = weight.T.contiguous() if transposed else weight
    save_file({"out.weight": stored, "out.bias": bias}, tmp_path / "model.safetensors")
    source = Source("out", 4, 3, bias=True, transposed=transposed)
    x = torch.randn(5, 12)
    parts = [
        load.row(source, (2 * rank, 2 * rank + 2))(x[:, 6 * rank : 6 * rank + 6])
        for rank, load in enumerate(both_ranks(tmp_path))
    ]
    assert torch.allclose(sum(parts), x @ weight.T + bias, atol=1e-5)  # type: ignore[arg-type]


def test_layers_with_and_without_bias_side_by_side(tmp_path: Path) -> None:
    weights, bias = torch.randn(2, 3, 4), torch.randn(3)
    save_file({"a.weight": weights[0], "b.weight": weights[1], "b.bias": bias}, tmp_path / "model.safetensors")
    x = torch.randn(2, 4)
    got = loader(tmp_path).column([Source("a", 3), Source("b", 3, bias=True)], [(0, 3)] * 2)(x)
    assert torch.allclose(got, torch.cat((x @ weights[0].T, x @ weights[1].T + bias), 1), atol=1e-5)


def test_norms_with_an_offset(tmp_path: Path) -> None:
    save_file({"n.weight": torch.full((4,), 0.5)}, tmp_path / "model.safetensors")
    weight = loader(tmp_path).norm(NormSpec("n", offset=1.0)).weight
    assert weight is not None and weight.tolist() == [1.5] * 4


def test_what_is_missing_or_too_small_is_named(tmp_path: Path) -> None:
    save_file({"a.weight": torch.zeros(3, 4)}, tmp_path / "model.safetensors")
    load = loader(tmp_path)
    with pytest.raises(ModelError, match=r"tensor transformer\.b\.weight is missing"):
        load.column([Source("b", 3)], [(0, 3)])
    with pytest.raises(ModelError, match=r"tensor a\.weight has the shape \[3, 4\]"):
        load.column([Source("a", 8)], [(4, 8)])


class Packed4:
    """Four-bit codes two a byte along the inputs, in groups of 8 inputs that lie side by side."""

    weight_bytes = 0.5

    def stored(self) -> Mapping[str, Stored]:
        return {
            "codes": Stored((OUT, Axis("in", 2)), ("U8",)),
            "scale": Stored((OUT, Axis("in", 8)), exact=True),
            "zero": Stored((OUT, Axis("in", 8)), exact=True),
        }

    def read(self, tensors: Mapping[str, Tensor], cut: Cut = WHOLE) -> Format:
        groups = torch.arange(2 * tensors["codes"].shape[1]) // 8
        return Grouped(tensors["codes"], tensors["scale"].float(), 8 - tensors["zero"].float(), groups, None)


class ActOrder(Packed4):
    """Any input may be in any group, so that every rank needs the steps of all of them."""

    def stored(self) -> Mapping[str, Stored]:
        whole = Stored((OUT, Axis(None)), exact=True)
        return {
            "codes": Stored((OUT, Axis("in", 2)), ("U8",)), "scale": whole, "zero": whole,
            "groups": Stored((IN,), ("I64",)),
        }  # fmt: skip

    def read(self, tensors: Mapping[str, Tensor], cut: Cut = WHOLE) -> Format:
        return Grouped(tensors["codes"], tensors["scale"].float(), 8 - tensors["zero"].float(), tensors["groups"], None)


METHODS = pytest.mark.parametrize("method", [Packed4(), ActOrder()], ids=["grouped", "act-order"])


@pytest.fixture
def quantised(tmp_path: Path) -> tuple[Path, dict[str, Tensor]]:
    """A quantised layer, and the same as plain matrices: its groups as they lie, and in disorder."""
    torch.manual_seed(0)
    codes, scale, zero = torch.randint(0, 16, (6, 32)), torch.rand(6, 4).half(), torch.randint(0, 16, (6, 4)).half()
    disorder = torch.randint(0, 4, (32,))
    tensors = {"codes": packed(codes), "scale": scale, "zero": zero, "groups": disorder}
    save_file({f"w.{name}": tensor for name, tensor in tensors.items()}, tmp_path / "model.safetensors")
    dense = {
        name: Grouped(packed(codes), scale.float(), 8 - zero.float(), groups, None).widened(torch.float32)
        for name, groups in (("Packed4", torch.arange(32) // 8), ("ActOrder", disorder))
    }
    return tmp_path, dense


@METHODS
def test_packed_layers_are_cut_along_both_axes(quantised: tuple[Path, dict[str, Tensor]], method: Packed4) -> None:
    directory, dense = quantised
    x = torch.randn(3, 32)
    whole = x @ dense[type(method).__name__].T
    for rank, load in enumerate(both_ranks(directory, method)):
        column = load.column([Source("w", 3, 2)], [(rank, rank + 1)])(x)
        assert torch.allclose(column, whole[:, 2 * rank : 2 * rank + 2], atol=1e-4)
    rows = [
        load.row(Source("w", 4, 8), (2 * rank, 2 * rank + 2))(x[:, 16 * rank : 16 * rank + 16])
        for rank, load in enumerate(both_ranks(directory, method))
    ]
    assert torch.allclose(sum(rows), whole, atol=1e-4)  # type: ignore[arg-type]


def test_what_is_exact_keeps_its_type(quantised: tuple[Path, dict[str, Tensor]]) -> None:
    directory, _ = quantised
    seen: dict[str, Tensor] = {}

    class Look(ActOrder):
        def read(self, tensors: Mapping[str, Tensor], cut: Cut = WHOLE) -> Format:
            seen.update(tensors)
            return super().read(tensors)

    loader(directory, quantize=Look()).row(Source("w", 4, 8), (0, 4))
    assert {name: tensor.dtype for name, tensor in seen.items()} == {
        "codes": torch.uint8, "scale": torch.float16, "zero": torch.float16, "groups": torch.int64,
    }  # fmt: skip
    assert unpacked(seen["codes"]).shape == (6, 32)


def test_a_cut_through_a_group_is_refused(quantised: tuple[Path, dict[str, Tensor]]) -> None:
    directory, _ = quantised
    with pytest.raises(ModelError, match=r"tensor w\.scale keeps 8 numbers together; it cannot be cut at 0 and 12"):
        loader(directory, quantize=Packed4()).row(Source("w", 8, 4), (0, 3))


@pytest.mark.parametrize("mixed", ["orders", "formats"])
def test_layers_that_cannot_be_joined_are_widened(tmp_path: Path, mixed: str, caplog: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(0)
    tensors: dict[str, Tensor] = {"c.weight": torch.randn(3, 16)}
    dense = {"c": tensors["c.weight"]}
    for name in "ab":
        codes, groups, scale = torch.randint(0, 16, (2, 16)), torch.randint(0, 2, (16,)), torch.rand(2, 2)
        tensors |= {f"{name}.codes": packed(codes), f"{name}.groups": groups}
        tensors |= {f"{name}.scale": scale, f"{name}.zero": torch.zeros(2, 2)}
        dense[name] = codes * scale[:, groups]
    save_file(tensors, tmp_path / "model.safetensors")
    second = "b" if mixed == "orders" else "c"
    sources = [Source("a", 2), Source(second, len(dense[second]))]
    x = torch.randn(4, 16)
    got = loader(tmp_path, quantize=ActOrder()).column(sources, [(0, source.units) for source in sources])(x)
    assert torch.allclose(got, x @ torch.cat((dense["a"], dense[second])).T, atol=1e-4)
    assert f"a, {second} share their input, but not their format" in caplog.text


def test_a_bias_that_only_the_quantised_layer_has(tmp_path: Path) -> None:
    codes = torch.randint(0, 16, (2, 16))
    tensors = {
        "a.codes": packed(codes), "a.groups": torch.zeros(16, dtype=torch.int64), "a.bias": torch.tensor([1.0, 2.0]),
        "a.scale": torch.ones(2, 1), "a.zero": torch.zeros(2, 1),
    }  # fmt: skip
    save_file(tensors, tmp_path / "model.safetensors")
    got = loader(tmp_path, quantize=ActOrder()).column([Source("a", 2)], [(0, 2)])(torch.ones(1, 16))
    assert got.tolist() == [[codes[0].sum() + 1.0, codes[1].sum() + 2.0]]


def test_a_matrix_that_is_quantised_where_none_should_be(quantised: tuple[Path, dict[str, Tensor]]) -> None:
    directory, dense = quantised
    assert torch.allclose(loader(directory, quantize=Packed4()).plain(Source("w", 6)), dense["Packed4"])
    save_file({"w.weight": dense["Packed4"]}, directory / "model.safetensors")
    assert torch.equal(loader(directory, quantize=Packed4()).plain(Source("w", 6)), dense["Packed4"])


def test_a_reader_that_makes_something_else_is_told(quantised: tuple[Path, dict[str, Tensor]]) -> None:
    class Half(Packed4):
        def read(self, tensors: Mapping[str, Tensor], cut: Cut = WHOLE) -> Format:
            return super().read({name: tensor[:3] for name, tensor in tensors.items()}, cut)

        def stored(self) -> Mapping[str, Stored]:
            return {name: replace(one, optional=name != "codes") for name, one in super().stored().items()}

    directory, _ = quantised
    with pytest.raises(ModelError, match=r"layer w\.codes: it has 3 outputs, 6 were expected"):
        loader(directory, quantize=Half()).column([Source("w", 6)], [(0, 6)])

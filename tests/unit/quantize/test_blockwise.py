"""4-bit weights of bitsandbytes: its own numbers, from float weights and as it saves them, whole and in parts."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from tests.bitsandbytes_files import METHODS, all_made, made, saved, settings_4bit, state_dict
from tests.models import needs
from tgi_server.errors import ConfigError, ModelError
from tgi_server.kernels.formats import Dense, Format, Grouped, GroupedByteInputs, packed, unpacked
from tgi_server.layers.parallel import Group
from tgi_server.models.checkpoint import Checkpoint
from tgi_server.models.spec import Source
from tgi_server.models.weights import WeightLoader
from tgi_server.quantize.base import Activations, Reader
from tgi_server.quantize.blockwise import numbers
from tgi_server.quantize.settings import Settings

KINDS = pytest.mark.parametrize("kind", METHODS)
NESTED = pytest.mark.parametrize("nested", ["", "-nested"])


def rounded(kind: str, weight: Tensor, **fields: Any) -> Format:
    return METHODS[kind](**fields).reader(None).read({"weight": weight})


def wide(weight: Format) -> Tensor:
    return weight.widened(torch.float32)


def loader(directory: Path, tensors: dict[str, Tensor], reader: Reader) -> WeightLoader:
    save_file({f"w.{name}": tensor for name, tensor in tensors.items()}, directory / "model.safetensors")
    return WeightLoader(Checkpoint(directory), ("",), reader, Group(), needs(plain=True))


@KINDS
@NESTED
def test_weights_are_rounded_as_the_package_does(kind: str, nested: str) -> None:
    got = rounded(kind, all_made()["whole.float"], compress_statistics=bool(nested))
    assert isinstance(got, Grouped) and type(got) is Grouped
    assert torch.equal(wide(got), made(f"{kind}{nested}.whole")["made"])


def test_statistics_are_kept_as_the_package_does() -> None:
    """In several blocks of 256."""
    got = numbers.compressed(all_made()["statistics"].view(20, 15))
    assert torch.allclose(got.flatten(), all_made()["statistics.made"], rtol=0, atol=1e-7)


@KINDS
@NESTED
@pytest.mark.parametrize("shape", ["whole", "running", "odd"])
def test_what_the_package_saves(kind: str, nested: str, shape: str) -> None:
    """Its blocks may run on from one output into the next."""
    name = f"{kind}{nested}.{shape}"
    got = METHODS[kind]().reader(settings_4bit(kind)).read(state_dict(name))
    assert type(got) is (Dense if shape == "odd" else Grouped)
    assert torch.equal(wide(got), made(name)["made"])


@pytest.mark.parametrize("inputs", [96, 80, 51])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_last_block_of_an_output_may_be_shorter(inputs: int, dtype: torch.dtype) -> None:
    weight = torch.randn(5, inputs).to(dtype)
    got = wide(rounded("nf4", weight, compress_statistics=False))
    for first in range(0, inputs, 64):
        block = weight[:, first : first + 64].float()
        book = torch.tensor(METHODS["nf4"].book) * block.abs().amax(dim=1, keepdim=True)
        nearest = (block.unsqueeze(2) - book.unsqueeze(1)).abs().amin(dim=2)
        assert torch.allclose((got[:, first : first + 64] - block).abs(), nearest, atol=1e-5)


@KINDS
def test_the_nearest_number_is_found(kind: str) -> None:
    """On a fine grid, beside every bound and far from all of them; the lower one in the middle."""
    book = torch.tensor(METHODS[kind].book)
    values = book.sort().values
    halfway = (values[:-1] + values[1:]) / 2
    beside = torch.cat([halfway, halfway.nextafter(torch.tensor(2.0)), halfway.nextafter(torch.tensor(-2.0))])
    x = torch.cat([torch.linspace(-1, 1, 8191), beside, values, torch.tensor([1e-9, -1e-9, 0.0])])
    x = torch.cat([x, torch.ones(-len(x) % 64)]).view(1, -1)
    codes = numbers._nearest(x.view(1, -1, 64), torch.ones(1, x.shape[1] // 64), numbers.cells(book))
    expected = values[torch.bucketize(x.flatten(), halfway)]
    assert torch.equal(book[codes.flatten().long()], expected)


def test_packing() -> None:
    codes = torch.randint(0, 16, (7, 34))
    bytes = packed(codes)
    assert torch.equal(bytes, (codes[:, ::2] | codes[:, 1::2] << 4).to(torch.uint8))
    assert torch.equal(unpacked(bytes), codes.to(torch.uint8))


def parts_of(load: WeightLoader, units: int, width: int, cuts: list[int], along: str) -> list[Format]:
    source, spans = Source("w", units, width), zip([0, *cuts], [*cuts, units], strict=True)
    if along == "out":
        return [load.column_weight([source], [span])[0] for span in spans]
    return [load.row_weight(source, span)[0] for span in spans]


@NESTED
@pytest.mark.parametrize("kind", ["nf4"])
@pytest.mark.parametrize("cuts", [[3], [2, 3], [1, 2]])
@pytest.mark.parametrize("along", ["out", "in"])
@pytest.mark.parametrize("stored", [True, False], ids=["saved", "rounding"])
def test_ranks_have_their_part_of_the_whole(
    tmp_path: Path, kind: str, nested: str, cuts: list[int], along: str, stored: bool
) -> None:
    """Wherever the cut is: also within a block."""
    tensors = state_dict(f"{kind}{nested}.whole") if stored else {"weight": all_made()["whole.float"]}
    method = METHODS[kind](compress_statistics=bool(nested or stored))
    load = loader(tmp_path, tensors, method.reader(settings_4bit(kind) if stored else None))
    whole, axis = made(f"{kind}{nested}.whole")["made"], 0 if along == "out" else 1
    parts = parts_of(load, 4, whole.shape[axis] // 4, cuts, along)
    assert all(isinstance(part, Grouped) for part in parts)
    assert torch.equal(torch.cat([wide(part) for part in parts], dim=axis), whole)


@pytest.mark.parametrize("shape", ["running", "odd"])
@pytest.mark.parametrize("along", ["out", "in"])
def test_ranks_have_their_part_of_odd_layers(tmp_path: Path, shape: str, along: str) -> None:
    load = loader(tmp_path, state_dict(f"nf4.{shape}"), METHODS["nf4"]().reader(settings_4bit("nf4")))
    whole, axis = made(f"nf4.{shape}")["made"], 0 if along == "out" else 1
    parts = parts_of(load, whole.shape[axis], 1, [2, 5], along)
    assert torch.equal(torch.cat([wide(part) for part in parts], dim=axis), whole)


@pytest.mark.parametrize("stored", [True, False], ids=["saved", "rounding"])
def test_transposed_layers(tmp_path: Path, stored: bool) -> None:
    """Of models like GPT-2: rounded they lie as all others do."""
    weight = all_made()["whole.float"]
    tensors = state_dict("nf4-nested.whole") if stored else {"weight": weight.T.contiguous()}
    load = loader(tmp_path, tensors, METHODS["nf4"]().reader(settings_4bit("nf4") if stored else None))
    got, _ = load.column_weight([Source("w", 16, transposed=True)], [(0, 16)])
    assert torch.equal(wide(got), made("nf4-nested.whole")["made"])


def test_interleaved_outputs(tmp_path: Path) -> None:
    load = loader(tmp_path, {"weight": all_made()["whole.float"]}, METHODS["nf4"]().reader(None))
    sources = [Source("w", 8, start=start, run=1, stride=2) for start in (0, 1)]
    got, _ = load.column_weight(sources, [(2, 6)] * 2)
    whole = made("nf4-nested.whole")["made"]
    assert torch.equal(wide(got), torch.cat((whole[4:12:2], whole[5:12:2])))


def exact(weight: Grouped) -> Grouped:
    """The same without rounding of inputs."""
    return Grouped(weight.codes, weight.scale, weight.offset, weight.groups, weight.book)


@KINDS
def test_inputs_of_8_bits(kind: str) -> None:
    for settings, tensors in (
        (None, {"weight": all_made()["whole.float"]}), (settings_4bit(kind), state_dict(f"{kind}-nested.whole"))
    ):  # fmt: skip
        got = METHODS[kind](activations=Activations.int8).reader(settings).read(tensors)
        assert isinstance(got, GroupedByteInputs)
        assert torch.equal(wide(exact(got)), made(f"{kind}-nested.whole")["made"])


def test_codes_stored_as_floats(tmp_path: Path) -> None:
    """As tools want it that spread floats only."""
    tensors = state_dict("nf4-nested.whole")
    tensors["weight"] = tensors["weight"].view(-1).view(torch.bfloat16).unsqueeze(1)
    settings = settings_4bit("nf4")
    reader = METHODS["nf4"]().reader(Settings("", {**settings.entries, "bnb_4bit_quant_storage": "bfloat16"}))
    assert reader.stored()["weight"].fits((16 * 128 // 4, 1), 16, 128)
    assert reader.stored()["weight"].types == ("BF16",)
    got, _ = loader(tmp_path, tensors, reader).column_weight([Source("w", 16)], [(0, 16)])
    assert torch.equal(wide(got), made("nf4-nested.whole")["made"])


def cut_short(name: str, size: int) -> Callable[[dict[str, Tensor]], None]:
    def change(tensors: dict[str, Tensor]) -> None:
        tensors[name] = tensors[name][:size]

    return change


def filled(name: str, number: float) -> Callable[[dict[str, Tensor]], None]:
    def change(tensors: dict[str, Tensor]) -> None:
        tensors[name] = torch.full_like(tensors[name], number)

    return change


def state_with(**entries: Any) -> Callable[[dict[str, Tensor]], None]:
    def change(tensors: dict[str, Tensor]) -> None:
        name = "weight.quant_state.bitsandbytes__nf4"
        said = json.loads(bytes(tensors[name].tolist())) | entries
        tensors[name] = torch.tensor([*json.dumps(said).encode()], dtype=torch.uint8)

    return change


@pytest.mark.parametrize(("change", "words"), [
    (cut_short("weight", 500), r"its weight has 500 bytes, which is too few for a matrix \[16, 128\]"),
    (cut_short("weight.absmax", 31), r"its weight.absmax has 31 entries, 32 were expected"),
    (cut_short("weight.quant_map", 15), "its weight.quant_map has 15 entries, 16 were expected"),
    (cut_short("weight.nested_quant_map", 16), "its weight.nested_quant_map has 16 entries, 256"),
    (cut_short("weight.quant_state.bitsandbytes__nf4", 9), "its quant_state.bitsandbytes__nf4 cannot be read"),
    (lambda tensors: tensors.pop("weight.nested_absmax"), "its weight.nested_absmax is missing"),
    (state_with(shape=[16]), ".* cannot be read: shape"),
    (state_with(blocksize=0), ".* cannot be read: shape"),
    (state_with(blocksize="x"), ".* cannot be read: shape"),
    (state_with(nested_offset=10**400), ".* cannot be read: int too large"),
    (state_with(nested_offset=math.nan), "its statistics .* are not all finite numbers"),
    (filled("weight.nested_absmax", math.inf), "its statistics .* are not all finite numbers"),
    (filled("weight.quant_map", math.nan), "its statistics .* are not all finite numbers"),
    (state_with(shape=[8, 128]), "its weight.absmax has 32 entries, 16 were expected"),
    (state_with(shape=[8, 256]), r"its matrix is \[8, 256\], and more was expected"),
])  # fmt: skip
def test_damaged_layers_are_named(tmp_path: Path, change: Any, words: str) -> None:
    tensors = state_dict("nf4-nested.whole")
    change(tensors)
    load = loader(tmp_path, tensors, METHODS["nf4"]().reader(settings_4bit("nf4")))
    with pytest.raises(ModelError, match=f"layer w.weight: {words}"):
        load.column_weight([Source("w", 16)], [(0, 16)])


def test_weights_that_are_no_numbers() -> None:
    weight = torch.zeros(2, 64)
    weight[1, 3] = torch.nan
    with pytest.raises(ValueError, match="some of its weights are no numbers"):
        rounded("nf4", weight)


@pytest.mark.parametrize(("fields", "words"), [
    ({"block": 128}, "quantize.block=128 is for weights that are quantised while they load"),
    ({"compress_statistics": False}, "quantize.compress_statistics=false is for weights"),
])  # fmt: skip
def test_fields_that_a_quantised_checkpoint_has_no_use_for(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(words)):
        METHODS["nf4"](**fields).reader(settings_4bit("nf4"))


def test_blocks_of_odd_sizes() -> None:
    with pytest.raises(ValueError, match="block=100 is no multiple of 32"):
        METHODS["nf4"](block=100)


def test_the_layout_of_the_tests_is_the_packages() -> None:
    expected = state_dict("nf4.whole")
    for name, tensor in saved(all_made()["whole.float"], "nf4").items():
        if "quant_state" not in name:
            assert torch.equal(tensor, expected[name]), name

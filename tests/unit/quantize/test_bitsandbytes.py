"""LLM.int8: the package's weights, what it saves, and which method reads which checkpoint."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tests.bitsandbytes_files import SETTINGS_8BIT, all_made, made, settings_4bit, state_dict
from tests.models import needs
from tgi_server.errors import ConfigError, ModelError
from tgi_server.kernels.formats import Int8Outlier
from tgi_server.layers.parallel import Group
from tgi_server.models.checkpoint import Checkpoint
from tgi_server.models.spec import Source
from tgi_server.models.weights import WeightLoader
from tgi_server.quantize.base import Activations, remark_of
from tgi_server.quantize.bitsandbytes import Bitsandbytes
from tgi_server.quantize.bitsandbytes_nf4 import BitsandbytesNf4
from tgi_server.quantize.eetq import Eetq
from tgi_server.quantize.none import NoQuantize
from tgi_server.quantize.settings import Settings


def test_weights_are_rounded_as_the_package_does() -> None:
    for shape in ("whole", "running", "odd"):
        got = Bitsandbytes().reader(None).read({"weight": all_made()[f"{shape}.float"]})
        expected = made(f"int8.{shape}")
        assert isinstance(got, Int8Outlier)
        assert torch.equal(got.steps, expected["weight"]) and got.threshold == 6.0
        assert torch.equal(got.widened(torch.float32), expected["made"])


def test_outputs_of_zeros_and_beyond_float16() -> None:
    weight = torch.zeros(3, 8)
    weight[1, 0], weight[2, :2] = 1e9, torch.tensor([-1e-9, 2.0])
    got = Bitsandbytes().reader(None).read({"weight": weight}).widened(torch.float32)
    assert got[0].abs().max() == 0 and got[1, 0] == pytest.approx(65504) and got[2, 1] == 2.0
    with pytest.raises(ValueError, match="no numbers"):
        Bitsandbytes().reader(None).read({"weight": torch.full((1, 2), torch.nan)})


def loaded(directory: Path, tensors: dict[str, torch.Tensor]) -> WeightLoader:
    save_file({f"w.{name}": tensor for name, tensor in tensors.items()}, directory / "model.safetensors")
    reader = Bitsandbytes().reader(SETTINGS_8BIT)
    return WeightLoader(Checkpoint(directory), ("",), reader, Group(), needs(plain=True))


@pytest.mark.parametrize("transposed", [False, True])
def test_what_the_package_saves(tmp_path: Path, transposed: bool) -> None:
    """Cut along both axes; layers that models like GPT-2 keep transposed are saved as all others are."""
    load, whole = loaded(tmp_path, state_dict("int8.whole")), made("int8.whole")["made"]
    spans = [(0, 1), (1, 3), (3, 4)]
    columns = [load.column_weight([Source("w", 4, 4, transposed=transposed)], [span])[0] for span in spans]
    rows = [load.row_weight(Source("w", 4, 32, transposed=transposed), span)[0] for span in spans]
    assert all(isinstance(part, Int8Outlier) for part in columns + rows)
    assert torch.equal(torch.cat([part.widened(torch.float32) for part in columns]), whole)
    assert torch.equal(torch.cat([part.widened(torch.float32) for part in rows], dim=1), whole)


def test_the_format_need_not_be_said(tmp_path: Path) -> None:
    tensors = state_dict("int8.whole")
    del tensors["weight_format"]
    got, _ = loaded(tmp_path, tensors).column_weight([Source("w", 16)], [(0, 16)])
    assert torch.equal(got.widened(torch.float32), made("int8.whole")["made"])


def test_other_orders_are_refused(tmp_path: Path) -> None:
    tensors = state_dict("int8.whole") | {"weight_format": torch.tensor(2, dtype=torch.uint8)}
    with pytest.raises(ModelError, match=r"layer w\.weight: its weight_format is 2"):
        loaded(tmp_path, tensors).column_weight([Source("w", 16)], [(0, 16)])


@pytest.mark.parametrize(("field", "said", "threshold"), [
    (None, None, 6.0), (None, 5.0, 5.0), (4.0, 5.0, 4.0), (None, 0.0, math.inf), (0.0, 5.0, math.inf),
])  # fmt: skip
def test_the_threshold(field: float | None, said: float | None, threshold: float) -> None:
    more = {} if said is None else {"llm_int8_threshold": said}
    reader = Bitsandbytes(field).reader(Settings("", {**SETTINGS_8BIT.entries, **more}))
    got = reader.read(state_dict("int8.whole"))
    assert isinstance(got, Int8Outlier) and got.threshold == threshold


def test_eetq_with_inputs_of_8_bits() -> None:
    weight = all_made()["whole.float"]
    exact, fast = (Eetq(choice).read({"weight": weight}) for choice in Activations)
    assert isinstance(fast, Int8Outlier) and fast.threshold == math.inf
    assert torch.equal(exact.widened(torch.float32), fast.widened(torch.float32))


@pytest.mark.parametrize(("entries", "words"), [
    ({"load_in_4bit": True, "bnb_4bit_quant_type": "af4"}, 'bnb_4bit_quant_type is "af4"'),
    ({"load_in_4bit": False, "load_in_8bit": False}, "none is true"),
    ({"load_in_8bit": True, "llm_int8_has_fp16_weight": True}, "llm_int8_has_fp16_weight"),
    ({"load_in_8bit": True, "llm_int8_threshold": "x"}, "llm_int8_threshold is 'x', not a number"),
    ({"load_in_8bit": True, "llm_int8_threshold": 10**400}, "llm_int8_threshold is 10*, not a number"),
    ({"load_in_4bit": True, "bnb_4bit_quant_storage": ["uint8"]}, r"bnb_4bit_quant_storage is \[.uint8.\]; served: ui"),
    ({"load_in_4bit": True, "bnb_4bit_quant_storage": "int4"}, 'bnb_4bit_quant_storage is "int4"; served: uint8, '),
])  # fmt: skip
def test_checkpoints_that_are_not_served(entries: dict[str, Any], words: str) -> None:
    with pytest.raises((ModelError, ConfigError), match=f"config.json: .*{words}"):
        NoQuantize().reader(Settings("config.json", {"quant_method": "bitsandbytes", **entries}))


def test_a_checkpoint_picks_its_method() -> None:
    for settings, wanted in (
        (SETTINGS_8BIT, "SCB"),
        (settings_4bit("nf4"), "weight.quant_state.bitsandbytes__nf4"),
        (settings_4bit("fp4"), "weight.quant_state.bitsandbytes__fp4"),
        (Settings("", {"load_in_4bit": True}), "weight.quant_state.bitsandbytes__fp4"),
    ):
        assert wanted in NoQuantize().reader(settings).stored()


def test_another_method_says_which_one_works() -> None:
    for method, settings, works in (
        (BitsandbytesNf4(), settings_4bit("fp4"), "quantize=bitsandbytes-fp4 works, or leave quantize out"),
        (BitsandbytesNf4(), SETTINGS_8BIT, "quantize=bitsandbytes works"),
        (Bitsandbytes(), settings_4bit("nf4"), "quantize=bitsandbytes-nf4 works"),
        (Bitsandbytes(), Settings("q.json", {"quant_method": "awq"}), "by awq .q.json.; leave quantize out"),
    ):
        with pytest.raises(ConfigError, match=works):
            method.reader(settings)


def test_who_asks_for_it_hears_of_the_better_one() -> None:
    assert "quantize=eetq" in (remark_of(Bitsandbytes()) or "")
    assert remark_of(Eetq()) is None

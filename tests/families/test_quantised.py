"""Quantised checkpoints, those of other tools and assembled ones, give the logits of the weights they stand for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from tests.families.harness import generate
from tests.models import needs
from tests.quantised import (
    NEW_TOKENS,
    REFERENCE,
    Codes,
    Text,
    awq,
    compressed,
    expected,
    gptq,
    gptq_v2,
    stored,
    write,
)

MADE = Path(__file__).parents[1] / "data" / "quantised"
TOLERANCE = 1e-3
"""Of the largest logit."""
STEPS = 0.03
"""The same where ranks round inputs to 8 bits: each by the largest number of its own part of a row."""
Spelling = Callable[[Codes], Mapping[str, Tensor]]
WAYS = {"plain": (1, True), "kernels": (1, False), "plain-shards": (3, True), "kernels-shards": (3, False)}


def furthest(directory: Path, texts: list[Text], world: int, plain: bool) -> float:
    """How far logits are from the right ones, as a part of the largest."""
    _, scores = generate(
        directory, [prompt for prompt, _, _ in texts], needs(plain=plain), world, new_tokens=NEW_TOKENS
    )
    return max(float((a - b).abs().max() / b.abs().max()) for a, (_, _, b) in zip(scores, texts, strict=True))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", sorted(path.name for path in MADE.iterdir()))
def test_of_other_tools(name: str, way: str) -> None:
    world, plain = WAYS[way]
    allowed = STEPS if world > 1 and name.endswith("int8") else TOLERANCE
    assert furthest(MADE / name, stored(MADE / name / REFERENCE), world, plain) <= allowed


def gptq_settings(bits: int, group: int, symmetric: bool, ordered: bool, **more: Any) -> dict[str, Any]:
    own = {"bits": bits, "group_size": group, "sym": symmetric, "desc_act": ordered}
    return {"quant_method": "gptq", **own, **more}


def awq_settings(group: int) -> dict[str, Any]:
    return {"quant_method": "awq", "bits": 4, "group_size": group, "zero_point": True, "version": "gemm"}


def compressed_settings(bits: int, group: int, symmetric: bool, ordered: bool) -> dict[str, Any]:
    weights = {
        "num_bits": bits, "type": "int", "symmetric": symmetric, "actorder": "group" if ordered else None,
        "strategy": "channel" if group == -1 else "group", "group_size": None if group == -1 else group,
    }  # fmt: skip
    groups = {"group_0": {"targets": ["Linear"], "weights": weights}}
    named = {"quant_method": "compressed-tensors", "format": "pack-quantized", "ignore": ["lm_head"]}
    return {**named, "config_groups": groups}


Case = tuple[int, int, bool, bool, Spelling, dict[str, Any]]
"""Bits, group, symmetric, act-order, how it is stored and what config.json says."""


def assembled() -> Iterator[tuple[str, Case]]:
    """GPTQ of 4 bits in all ways; of others each size of groups, and each pair of symmetry and order, at least once."""
    for (at, group), symmetric, ordered in product(enumerate((32, 64, 128, -1)), (True, False), (True, False)):
        pair = 2 * symmetric + ordered
        for bits in (4, *((2, 3, 8) if at == pair else ())):
            own = (bits, group, symmetric, ordered)
            name = f"{bits}bit-g{group}{'' if symmetric else '-asym'}{'-act' if ordered else ''}"
            yield f"gptq-{name}", (*own, gptq, gptq_settings(*own))
            if not symmetric and bits in (3, 4) and group in (32, -1):
                yield f"gptq_v2-{name}", (*own, gptq_v2, gptq_settings(*own, checkpoint_format="gptq_v2"))
            if bits in (4, 8) and (at == pair or group == 32) and not (group == -1 and ordered):
                spelling = partial(compressed, symmetric=symmetric, ordered=ordered)
                yield f"compressed-{name}", (*own, spelling, compressed_settings(*own))
            if bits == 4 and not symmetric and not ordered:
                yield f"awq-{name}", (*own, awq, awq_settings(group))


ASSEMBLED = dict(assembled())


def write_assembled(directory: Path, case: Case) -> list[Text]:
    """The checkpoint of it, and what is right."""
    bits, group, symmetric, ordered, spelled, settings = case
    made = partial(_layer, bits=bits, group=group, symmetric=symmetric, ordered=ordered)
    return expected(directory, write(directory, made, spelled, settings))


def _layer(rng: Any, out: int, inputs: int, **how: Any) -> Codes:
    return Codes.random(rng, out, inputs, **how)


@pytest.mark.parametrize("name", ASSEMBLED)
def test_assembled(name: str, tmp_path: Path) -> None:
    texts = write_assembled(tmp_path, ASSEMBLED[name])
    for way in ("plain", "kernels-shards"):
        assert furthest(tmp_path, texts, *WAYS[way]) <= TOLERANCE, way


def _one_less(layer: Codes) -> Codes:
    return replace(layer, zeros=(layer.zeros - 1) & 15)


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("gptq-4bit-g32-asym", gptq_v2),  # zero points of the other version
        ("gptq_v2-4bit-g32-asym", gptq),
        ("gptq-3bit-g64-asym-act", gptq_v2),
        ("awq-4bit-g32-asym", partial(awq, order=range(8))),
        ("gptq-4bit-g32-asym-act", lambda layer: gptq(layer) | {"g_idx": gptq(layer)["g_idx"].sort().values}),
        ("compressed-4bit-g32-asym", lambda layer: compressed(_one_less(layer), False, False)),
    ],
)
def test_other_conventions_are_told_apart(name: str, wrong: Spelling, tmp_path: Path) -> None:
    """What is stored otherwise than config.json says is far off: the tests above would fail of a reader that errs."""
    *numbers, _, settings = ASSEMBLED[name]
    texts = write_assembled(tmp_path, (*numbers, wrong, settings))  # type: ignore[arg-type]
    assert furthest(tmp_path, texts, 1, True) > 20 * TOLERANCE

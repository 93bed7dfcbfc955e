"""Mixtures of experts out of a checkpoint: per expert or stacked, by ranks, quantised, and against their definition."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import silu

from tests.families.harness import ThreadGroup
from tests.models import needs
from tgi_server.kernels.formats import Int8, Int8Outlier
from tgi_server.layers.parallel import Group
from tgi_server.models.blocks import ExpertsBlock
from tgi_server.models.checkpoint import Checkpoint
from tgi_server.models.spec import ExpertsSpec, MlpSpec, Source
from tgi_server.models.weights import WeightLoader
from tgi_server.quantize.base import WHOLE, Cut, Reader
from tgi_server.quantize.eetq import Eetq
from tgi_server.quantize.none import NoQuantize

COUNT, HIDDEN, INNER = 5, 32, 24
Tensors = dict[str, Tensor]


@pytest.fixture
def weights() -> Tensors:
    torch.manual_seed(0)
    shapes = {
        "gate": (COUNT, INNER, HIDDEN), "up": (COUNT, INNER, HIDDEN), "down": (COUNT, HIDDEN, INNER),
        "gate_bias": (COUNT, INNER), "up_bias": (COUNT, INNER), "down_bias": (COUNT, HIDDEN),
        "router": (COUNT, HIDDEN), "router_bias": (COUNT,),
    }  # fmt: skip
    return {name: torch.randn(shape) / 4 for name, shape in shapes.items()}


def separate(weights: Tensors) -> tuple[ExpertsSpec, Tensors]:
    """Each expert's layers have tensors of their own."""
    tensors = {"router.weight": weights["router"], "router.bias": weights["router_bias"]}
    for layer in ("gate", "up", "down"):
        for number in range(COUNT):
            tensors[f"{number}.{layer}.weight"] = weights[layer][number].clone()
            tensors[f"{number}.{layer}.bias"] = weights[f"{layer}_bias"][number].clone()
    experts = []
    for number in range(COUNT):
        gate, up, down = (Source(f"{number}.{layer}", INNER, bias=True) for layer in ("gate", "up", "down"))
        experts.append(MlpSpec(up, down, "SILU", gate))
    return ExpertsSpec(Source("router", COUNT, bias=True), tuple(experts), 2), tensors


def stacked(weights: Tensors) -> tuple[ExpertsSpec, Tensors]:
    """All experts in one tensor, the other way round, gate and up feature by feature."""
    both = torch.stack((weights["gate"], weights["up"]), dim=2).flatten(1, 2)
    biases = torch.stack((weights["gate_bias"], weights["up_bias"]), dim=2).flatten(1, 2)
    tensors = {
        "router.weight": weights["router"], "router.bias": weights["router_bias"],
        "gate_up": both.transpose(1, 2).contiguous(), "gate_up_bias": biases,
        "down": weights["down"].transpose(1, 2).contiguous(), "down_bias": weights["down_bias"],
    }  # fmt: skip
    experts = []
    for number in range(COUNT):
        gate = Source("gate_up", INNER, bias=True, transposed=True, run=1, stride=2, expert=number)
        down = Source("down", INNER, bias=True, transposed=True, expert=number)
        experts.append(MlpSpec(replace(gate, start=1), down, "SILU", gate))
    return ExpertsSpec(Source("router", COUNT, bias=True), tuple(experts), 2), tensors


def by_definition(weights: Tensors, x: Tensor) -> Tensor:
    best, ids = (x @ weights["router"].T + weights["router_bias"]).topk(2)
    out = torch.zeros_like(x)
    for row, (scores, own) in enumerate(zip(best.softmax(-1), ids, strict=True)):
        for score, e in zip(scores, own, strict=True):
            gate, up = (weights[name][e] @ x[row] + weights[f"{name}_bias"][e] for name in ("gate", "up"))
            out[row] += score * (weights["down"][e] @ (silu(gate) * up) + weights["down_bias"][e])
    return out


def block(
    directory: Path, made: tuple[ExpertsSpec, Tensors], plain: bool, group: Group | None = None,
    quantize: Reader | None = None,
) -> ExpertsBlock:  # fmt: skip
    spec, tensors = made
    if not (directory / "model.safetensors").exists():
        save_file(tensors, directory / "model.safetensors")
    checkpoint = Checkpoint(directory)
    load = WeightLoader(checkpoint, ("",), quantize or NoQuantize(), group or Group(), needs(plain=plain))
    return ExpertsBlock(spec, load)


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("form", [separate, stacked])
@pytest.mark.parametrize("world", [1, 2, 3])
def test_ranks_add_up_to_the_definition(tmp_path: Path, weights: Tensors, form: type, plain: bool, world: int) -> None:
    x = torch.randn(9, HIDDEN)
    parts = [block(tmp_path, form(weights), plain, group)(x) for group in ThreadGroup.of(world)]
    assert torch.allclose(sum(parts), by_definition(weights, x), atol=1e-5)  # type: ignore[arg-type]


@pytest.mark.parametrize("form", [separate, stacked])
def test_experts_are_quantised_one_by_one(tmp_path: Path, weights: Tensors, form: type) -> None:
    x = torch.randn(9, HIDDEN)
    rounded = dict(weights)
    for layer in ("gate", "up", "down"):
        made = [Eetq().read({"weight": matrix}).widened(torch.float32) for matrix in weights[layer]]
        rounded[layer] = torch.stack(made)
    assert not torch.equal(rounded["up"], weights["up"])
    for plain in (False, True):
        got = block(tmp_path, form(weights), plain, quantize=Eetq())(x)
        assert torch.allclose(got, by_definition(rounded, x), atol=1e-5)


def test_formats_without_a_kernel_go_through_torch(tmp_path: Path, weights: Tensors) -> None:
    class Outliers(Eetq):
        def read(self, tensors: Mapping[str, Tensor], cut: Cut = WHOLE) -> Int8Outlier:
            plain = super().read(tensors)
            assert isinstance(plain, Int8)
            return Int8Outlier(plain.steps, plain.scale, threshold=0.0)  # so inputs are multiplied as they are

    x = torch.randn(9, HIDDEN)
    got = block(tmp_path, separate(weights), False, quantize=Outliers())(x)
    assert torch.allclose(got, block(tmp_path, separate(weights), False, quantize=Eetq())(x), atol=1e-5)


def test_more_experts_a_token_than_there_are(weights: Tensors) -> None:
    spec, _ = separate(weights)
    with pytest.raises(ValueError, match=r"6 experts a token \(there are 5\)"):
        replace(spec, chosen=6)

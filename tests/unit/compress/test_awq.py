"""Factors of AWQ: moved from a layer to what comes before it they change no output; and they help."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.models import CPU, needs
from tests.unit.compress.random_models import CONFIGS, write
from tgi_server.compress import awq
from tgi_server.compress.block import Source
from tgi_server.compress.forward import Samples
from tgi_server.compress.observe import Seen
from tgi_server.compress.options import Method, QuantizeOptions
from tgi_server.compress.plan import Channels, Layer, Site, sites
from tgi_server.compress.rounding import Rounded, Steps, nearest
from tgi_server.models.check import reader_of
from tgi_server.models.checkpoint import Checkpoint

TOKENS = 24


def source(directory: Path, family: str, dtype: torch.dtype = torch.float32) -> Source:
    spec, files = write(directory, family, dtype), Checkpoint(directory)
    wide = replace(spec, float16=False)  # so that nothing is rounded
    return Source(wide, files, files, QuantizeOptions(method=Method.awq), reader_of(directory, spec), needs(plain=True))


def outputs(own: Source, number: int = 1) -> Tensor:
    """What a block makes of random rows, of the tensors as they are by now."""
    residual = torch.randn(2 * TOKENS, own.spec.hidden_size, generator=torch.Generator().manual_seed(2))
    Samples(own.spec, own.needs, TOKENS).block(own.spec.blocks[number], own.loader())(residual)
    return residual


def random_factors(site: Site) -> Tensor:
    if isinstance(site.before, Channels):
        return (torch.rand(site.before.writer.size) * 4 + 0.25)[awq.readers(site.before)]
    return torch.rand(site.inputs) * 4 + 0.25


@pytest.mark.parametrize("family", CONFIGS)
def test_factors_that_move_change_no_output(family: str, tmp_path: Path) -> None:
    own = source(tmp_path, family)
    expected, places = outputs(own), sites(own.spec.blocks[1], own.spec.hidden_size)
    weights = {layer.name: own.matrix(layer) for site in places for layer in site.layers}
    block = awq.Block(weights, own.loader().vector, own.stored)
    moved = [site for site in places if site.before is not None]
    assert len(moved) == {"phi": 2, "gpt_neox": 3, "gpt2": 3}.get(family, 4)
    for site in moved:
        block.scale(site, random_factors(site))
    for site in places:
        for layer in site.layers:
            weight = block.weights[layer.name]
            own.tensors.changes[own.name(f"{layer.name}.weight")] = weight.t() if layer.transposed else weight
    assert not torch.allclose(outputs(own), expected, rtol=0, atol=0.1)  # the norms have not changed yet
    own.tensors.changes |= {own.name(name): vector for name, vector in block.vectors.items()}
    assert (outputs(own) - expected).abs().max() < 1e-5 * expected.abs().max()


def test_factors_are_those_that_16_bits_of_a_norm_can_tell(tmp_path: Path) -> None:
    own = source(tmp_path, "gemma", torch.bfloat16)
    site = sites(own.spec.blocks[0], 64)[0]
    weights = {layer.name: own.matrix(layer) for layer in site.layers}
    block = awq.Block(weights, own.loader().vector, own.stored)
    factors = block.scale(site, random_factors(site))
    (name,) = block.vectors
    stored = block.vectors[name].to(torch.bfloat16).float()
    before = own.loader().vector(name) + 1
    assert torch.allclose((stored + 1) * factors, before, rtol=1e-6, atol=0)


def observed(x: Tensor) -> Seen:
    seen = Seen(x.shape[1], CPU)
    seen.add(x)
    return seen


def test_factors_make_outputs_change_less() -> None:
    torch.manual_seed(0)
    x = torch.randn(256, 64)
    x[:, ::16] *= 20
    site = Site((Layer("a", 32, 64, False), Layer("b", 16, 64, False)), 64, None)
    weights, steps = {"a": torch.randn(32, 64), "b": torch.randn(16, 64)}, Steps(4, False)
    factors = awq.factors(site, weights, observed(x), steps, 32)

    def error(factors: Tensor) -> float:
        changes = [nearest(w * factors, steps, 32).widened() / factors - w for w in weights.values()]
        return sum(float((x @ change.t()).square().sum()) for change in changes)

    assert factors[::16].min() > 1.5 * factors[1::16].max()
    assert error(factors) < 0.6 * error(torch.ones(64))


def test_inputs_make_up_for_what_rounding_others_changes() -> None:
    torch.manual_seed(0)
    x = torch.randn(512, 16) @ torch.randn(16, 64) + 0.1 * torch.randn(512, 64)
    site, weight, steps = Site((Layer("a", 32, 64, False),), 64, None), torch.randn(32, 64), Steps(4, False)
    block = awq.Block({"a": weight}, lambda name: torch.ones(64), lambda name: torch.float32)
    made = awq.rounded([site], block, {"a": observed(x)}, steps, lambda inputs: 32, 0.01)["a"]

    def error(rounded: Rounded) -> float:
        return float((x @ (rounded.widened() - weight).t()).square().sum())

    assert error(made) < 0.3 * error(nearest(weight, steps, 32))
    assert made.groups.tolist() == [number // 32 for number in range(64)]


def test_the_block_is_rounded_better_than_weight_by_weight(tmp_path: Path) -> None:
    own = source(tmp_path, "llama")
    places = sites(own.spec.blocks[0], 64)
    weights = {layer.name: own.matrix(layer) for site in places for layer in site.layers}
    spread = {site.name: torch.logspace(-1, 1, site.inputs) for site in places}
    seen = {site.name: observed(torch.randn(256, site.inputs) * spread[site.name]) for site in places}
    steps = Steps(4, False)
    plain = {name: nearest(weight, steps, 32).widened() - weight for name, weight in weights.items()}
    block = awq.Block(weights, own.loader().vector, own.stored)
    made = awq.rounded(places, block, seen, steps, lambda inputs: 32, 0.1)
    site = places[1]  # what reads the attended heads; its weights have been scaled
    name = site.name
    hessian = seen[name].hessian
    factors = (block.weights[name] / own.matrix(site.layers[0])).mean(0)
    change = made[name].widened() / factors - own.matrix(site.layers[0])
    assert (change @ hessian * change).sum() < 0.85 * (plain[name] @ hessian * plain[name]).sum()
    heads = factors.view(4, 16)
    assert torch.allclose(heads[0], heads[1], rtol=1e-4) and torch.allclose(heads[2], heads[3], rtol=1e-4)

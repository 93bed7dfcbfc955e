"""GPTQ's outputs are nearer than those of plain rounding, whatever the options; its groups are those of the format."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tgi_server.compress import gptq
from tgi_server.compress.rounding import Rounded, Steps, nearest
from tgi_server.errors import ModelError

OUT, IN = 48, 256


def inputs(rows: int = 512) -> Tensor:
    """Numbers that depend on one another, a few of them large."""
    torch.manual_seed(0)
    mixed = torch.randn(rows, IN // 4) @ torch.randn(IN // 4, IN) + 0.1 * torch.randn(rows, IN)
    return mixed * torch.logspace(-1, 1, IN)[torch.randperm(IN)]


def error(weight: Tensor, rounded: Rounded, x: Tensor) -> float:
    return float((x @ (weight - rounded.widened()).t()).square().mean())


@pytest.mark.parametrize("act_order", [True, False])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(("bits", "size"), [(4, 32), (4, 128), (4, IN), (3, 64), (2, 32), (8, 128)])
def test_outputs_change_less(bits: int, size: int, symmetric: bool, act_order: bool) -> None:
    x, weight = inputs(), torch.randn(OUT, IN, generator=torch.Generator().manual_seed(1))
    steps = Steps(bits, symmetric, least_zero=1)
    made = gptq.rounded(weight, x.t() @ x, steps, size, act_order=act_order)
    assert error(weight, made, x) < 0.5 * error(weight, nearest(weight, steps, size), x)
    assert int(made.codes.max()) < 2**bits and made.zero.min() >= 1 and made.zero.max() < 2**bits
    assert torch.equal(made.scale, made.scale.half().float())
    assert made.scale.shape == (OUT, IN // size)
    assert torch.bincount(made.groups).tolist() == [size] * (IN // size)


def test_act_order_puts_the_inputs_that_matter_together() -> None:
    x, weight = inputs(), torch.randn(OUT, IN)
    hessian = x.t() @ x
    order = hessian.diagonal().argsort(descending=True)
    ordered = gptq.rounded(weight, hessian, Steps(4, True), 64)
    assert ordered.groups[order].tolist() == [place // 64 for place in range(IN)]
    plain = gptq.rounded(weight, hessian, Steps(4, True), 64, act_order=False)
    assert plain.groups.tolist() == [place // 64 for place in range(IN)]


def test_one_column_of_one_output_by_hand() -> None:
    """Two inputs: what rounding the first changes is made up for by the second."""
    hessian = torch.tensor([[2.0, 1.0], [1.0, 2.0]])
    weight = torch.tensor([[0.36, 1.4]])
    steps = Steps(4, True)
    made = gptq.rounded(weight, hessian, steps, 2, damping=1e-9, act_order=False)
    step = made.scale.item()
    first = (made.codes[0, 0].item() - 8) * step
    wanted = 1.4 + (0.36 - first) * 0.5  # minimum of the quadratic form, given the first
    assert made.codes[0, 1].item() - 8 == pytest.approx(min(7, round(wanted / step)))


def test_layers_that_never_saw_an_input_and_singular_inputs() -> None:
    weight = torch.randn(8, 32)
    silent = gptq.rounded(weight, torch.zeros(32, 32), Steps(4, False, 1), 32)
    assert (silent.widened() - weight).abs().max() < weight.abs().max() / 4
    same = torch.ones(32, 32)
    assert gptq.rounded(weight, same, Steps(4, True), 32, damping=1e-6).widened().isfinite().all()
    with pytest.raises(ModelError, match="another text"):
        gptq.rounded(weight, torch.full((32, 32), torch.nan), Steps(4, True), 32)


def test_splitting() -> None:
    x, weight = inputs(), torch.randn(OUT, IN)
    made = gptq.rounded(weight, x.t() @ x, Steps(4, True), 64)
    first, second = made.split([16, 32])
    assert torch.equal(torch.cat([first.widened(), second.widened()]), made.widened())


def test_steps_of_zeros_and_of_weights_of_one_sign() -> None:
    for symmetric in (True, False):
        steps = Steps(4, symmetric, 1)
        assert nearest(torch.zeros(2, 32), steps, 32).widened().abs().max() == 0
        weight = torch.rand(2, 32) + 1
        assert (nearest(weight, steps, 32).widened() - weight).abs().max() <= (0.2 if symmetric else 0.16)

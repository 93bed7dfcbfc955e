"""GPTQ (arXiv:2210.17323): inputs are rounded one after the other; those to come make up for what that changes."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from tgi_server.compress.rounding import Rounded, Steps
from tgi_server.errors import ModelError

_LAZY = 128
"""Inputs after which the others hear of the changes, in one product."""
_TRIES = 6


def rounded(
    weight: Tensor, hessian: Tensor, steps: Steps, size: int, damping: float = 0.01, act_order: bool = True
) -> Rounded:
    """A layer in steps whose outputs change little.

    Args:
        weight: float32 `[out, in]`.
        hessian: float32 `[in, in]`, sum of the products of inputs, times any number.
        steps: of the codes.
        size: inputs of a group; it divides 128, or is all of them.
        damping: added to the diagonal, as a part of its mean.
        act_order: whether the inputs with the largest squares come first, and share groups in this order.
    """
    count = weight.shape[1]
    hessian = hessian.clone()
    diagonal = hessian.diagonal()
    diagonal[diagonal == 0] = diagonal.mean().clamp(min=1e-30)  # inputs that were never seen
    order = diagonal.argsort(descending=True, stable=True) if act_order else torch.arange(count, device=weight.device)
    importance = diagonal[order].contiguous()
    factor = _factor(hessian[order][:, order], damping)
    codes, scale, zero = _rounded(weight.t()[order].contiguous(), factor, importance, steps, size)
    groups = torch.empty(count, dtype=torch.int64, device=weight.device)
    groups[order] = torch.arange(count, device=weight.device) // size
    restored = torch.empty_like(codes)
    restored[order] = codes
    return Rounded(restored.t().contiguous(), scale, zero, groups)


def _squares(changes: Tensor, importance: Tensor) -> Tensor:
    return (changes.square() * importance).sum(-1, keepdim=True)


def _factor(hessian: Tensor, damping: float) -> Tensor:
    """The upper Cholesky factor of the inverse; with more damping where the Hessian is too singular for it."""
    mean, unit = hessian.diagonal().mean(), torch.eye(len(hessian), device=hessian.device)
    for attempt in range(_TRIES):
        lower, failed = torch.linalg.cholesky_ex(hessian + unit * (mean * damping * 10**attempt))
        if not failed:
            upper: Tensor
            upper, failed = torch.linalg.cholesky_ex(torch.cholesky_inverse(lower), upper=True)
            if not failed:
                return upper
    raise ModelError("a layer's inputs on the calibration text are no numbers to compute with; another text may help")


def _rounded(
    weight: Tensor, factor: Tensor, importance: Tensor, steps: Steps, size: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Codes `[in, out]` of `weight [in, out]`, which is used up; scales and zero points `[out, groups]`."""
    codes = torch.empty(weight.shape, dtype=torch.uint8, device=weight.device)
    scales, zeros = [], []
    for first in range(0, len(weight), _LAZY):
        last = min(first + _LAZY, len(weight))
        errors = torch.empty_like(weight[first:last])
        for row in range(first, last):
            if row % size == 0:
                group = slice(row, row + size)
                scale, zero = steps.fitted(weight[group].t(), partial(_squares, importance=importance[group]))
                scales.append(scale)
                zeros.append(zero)
                step, middle = scale.squeeze(1), zero.squeeze(1)
            code = steps.codes(weight[row], step, middle)
            codes[row] = code
            error = (weight[row] - (code - middle) * step).div_(factor[row, row])
            weight[row + 1 : last].addr_(factor[row, row + 1 : last], error, alpha=-1)
            errors[row - first] = error
        weight[last:].addmm_(factor[first:last, last:].t(), errors, alpha=-1)
    return codes, torch.cat(scales, 1), torch.cat(zeros, 1)

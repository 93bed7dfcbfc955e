"""Weights in steps: the scale and the zero point of a group, and the codes of its weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

_LEAST = 2.0**-24
"""The smallest positive float16: a group of zeros needs a scale, too."""
_SHRINKS = tuple(1 - step / 32 for step in range(17))
"""Parts of a group's range that are tried: its largest weights may be clipped so that the others get finer steps."""


@dataclass(frozen=True, slots=True)
class Rounded:
    """A layer in steps: weights are `(codes - zero) * scale`.

    Attributes:
        codes: uint8 `[out, in]`.
        scale: float32 `[out, groups]`, of numbers that float16 has.
        zero: float32 `[out, groups]`, of whole numbers.
        groups: int64 `[in]`, the group of each input.
    """

    codes: Tensor
    scale: Tensor
    zero: Tensor
    groups: Tensor

    def widened(self) -> Tensor:
        """The weights, float32 `[out, in]`."""
        return (self.codes.float() - self.zero[:, self.groups]) * self.scale[:, self.groups]

    def split(self, outputs: Sequence[int]) -> list[Rounded]:
        """Layers of so many outputs each, that were rounded as one."""
        codes, scales, zeros = (torch.split(x, list(outputs)) for x in (self.codes, self.scale, self.zero))
        return [Rounded(*part, self.groups) for part in zip(codes, scales, zeros, strict=True)]


@dataclass(frozen=True, slots=True)
class Steps:
    """How groups are rounded.

    Attributes:
        bits: of a code.
        symmetric: whether the zero point is the middle of the codes.
        least_zero: the smallest zero point. It is 1 where files store it less 1.
    """

    bits: int
    symmetric: bool
    least_zero: int = 0

    @property
    def most(self) -> int:
        """The largest code."""
        return (1 << self.bits) - 1

    def of(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """Scale and zero point of groups whose weights go from `low` (at most 0) to `high` (at least 0)."""
        if self.symmetric:
            low = -torch.maximum(-low, high)
            scale = _half(-2 * low / self.most)
            return scale, torch.full_like(scale, (self.most + 1) // 2)
        scale = _half((high - low) / self.most)
        return scale, (-low / scale).round().clamp(self.least_zero, self.most)

    def codes(self, weights: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
        """Codes as floats."""
        return ((weights / scale).round_() + zero).clamp_(0, self.most)

    def seen(self, weights: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
        """What becomes of weights."""
        return (self.codes(weights, scale, zero) - zero) * scale

    def plain(self, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Scale and zero point `[..., 1]` that hold all of `weights [..., size]`."""
        return self.of(weights.amin(-1, keepdim=True).clamp(max=0), weights.amax(-1, keepdim=True).clamp(min=0))

    def fitted(self, weights: Tensor, error: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        """The same for the part of their range that does least harm: `error` of the changes, `[..., 1]`."""
        low, high = weights.amin(-1, keepdim=True).clamp(max=0), weights.amax(-1, keepdim=True).clamp(min=0)
        best = torch.full_like(low, torch.inf)
        scale, zero = torch.empty_like(low), torch.empty_like(low)
        for shrink in _SHRINKS:
            tried = self.of(low * shrink, high * shrink)
            harm = error(self.seen(weights, *tried) - weights)
            better = harm < best
            best = torch.where(better, harm, best)
            scale, zero = torch.where(better, tried[0], scale), torch.where(better, tried[1], zero)
        return scale, zero


def _half(scale: Tensor) -> Tensor:
    """Rounded to what float16 has, and never 0."""
    return scale.to(torch.float16).float().clamp(min=_LEAST)


def nearest(weight: Tensor, steps: Steps, size: int, error: Callable[[Tensor], Tensor] | None = None) -> Rounded:
    """Each weight `[out, in]` by itself, in groups of `size` inputs side by side; `error` as `Steps.fitted` takes it,
    of `[out, groups, size]`. Without it the largest weights are kept."""
    grouped = weight.reshape(len(weight), -1, size)
    scale, zero = steps.plain(grouped) if error is None else steps.fitted(grouped, error)
    codes = steps.codes(grouped, scale, zero).flatten(1).to(torch.uint8)
    groups = torch.arange(weight.shape[1], device=weight.device) // size
    return Rounded(codes, scale.squeeze(2), zero.squeeze(2), groups)

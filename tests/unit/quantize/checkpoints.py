"""Quantised layers as the formats' public descriptions say, number by number and with numpy alone."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Numbers = NDArray[Any]
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)


def stream(numbers: Numbers, bits: int) -> Numbers:
    """Each row's numbers one after the other from the lowest bit on, as int32."""
    every = (numbers.astype(np.uint8)[..., None] >> np.arange(bits, dtype=np.uint8) & 1).reshape(len(numbers), -1)
    padded = np.pad(every, ((0, 0), (0, -every.shape[1] % 32)))
    return np.ascontiguousarray(np.packbits(padded, axis=1, bitorder="little")).view(np.int32)


def nibbles(numbers: Numbers, order: tuple[int, ...]) -> Numbers:
    """Each row's numbers of 4 bits by eights, in an order of their own."""
    eights = numbers.reshape(len(numbers), -1, 8).astype(np.uint32)
    words = sum((eights[..., output] << np.uint32(4 * place) for place, output in enumerate(order)), np.uint32(0))
    return np.ascontiguousarray(words).view(np.int32)


@dataclass
class Layer:
    """A random layer `(q - zero) * scale`, its groups as they lie or in any order.

    Attributes:
        symmetric: every zero is in the middle.
    """

    outputs: int = 32
    inputs: int = 64
    bits: int = 4
    group_size: int = 32
    symmetric: bool = False
    act_order: bool = False
    seed: int = 0
    order: Numbers = field(init=False)

    def __post_init__(self) -> None:
        random, size = np.random.default_rng(self.seed), self.inputs if self.group_size < 0 else self.group_size
        self.order = np.arange(self.inputs) // size
        if self.act_order:
            random.shuffle(self.order)
        groups = -(-self.inputs // size)
        self.q = random.integers(0, 1 << self.bits, (self.outputs, self.inputs))
        self.zero = random.integers(0, 1 << self.bits, (self.outputs, groups))
        if self.symmetric:
            self.zero[:] = 1 << self.bits - 1
        self.scale = (random.random((self.outputs, groups)) / 8 + 0.01).astype(np.float16)

    def dense(self) -> Tensor:
        """Float32 `[out, in]`."""
        own = (self.q - self.zero[:, self.order]) * self.scale.astype(np.float32)[:, self.order]
        return torch.from_numpy(own.astype(np.float32))

    def gptq(self, version: int = 1, g_idx: bool = True) -> dict[str, Tensor]:
        """AutoGPTQ's tensors; version 2 stores the zeros as they are."""
        zeros = self.zero.T - (1 if version == 1 else 0)
        found = {
            "qweight": stream(self.q, self.bits).T,
            "qzeros": stream(zeros, self.bits),
            "scales": self.scale.T,
        }
        return _tensors(found | ({"g_idx": self.order.astype(np.int32)} if g_idx else {}))

    def awq(self) -> dict[str, Tensor]:
        """AutoAWQ's."""
        words = {"qweight": nibbles(self.q.T, AWQ_ORDER), "qzeros": nibbles(self.zero.T, AWQ_ORDER)}
        return _tensors(words | {"scales": self.scale.T})

    def compressed(self) -> dict[str, Tensor]:
        """compressed-tensors': a layer's numbers and zeros lie around 0, and are stored with half their range more."""
        found = {
            "weight_packed": stream(self.q, self.bits),
            "weight_scale": self.scale,
            "weight_shape": np.array([self.outputs, self.inputs]),
        }
        if not self.symmetric:
            found["weight_zero_point"] = stream(self.zero.T, self.bits).T
        if self.act_order:
            found["weight_g_idx"] = self.order.astype(np.int32)
        return _tensors(found)


def _tensors(found: dict[str, Numbers]) -> dict[str, Tensor]:
    return {name: torch.from_numpy(np.ascontiguousarray(own)) for name, own in found.items()}

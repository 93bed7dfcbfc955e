"""A mixture of experts over the compiled kernels: rows sorted by expert, then grouped products."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from typing import NamedTuple

import torch
from torch import Tensor

from tgi_server.kernels.experts import Expert, ExpertsOp, Mixture
from tgi_server.kernels.formats import Dense, Format, Int8
from tgi_server.kernels.native.calls import call, empty
from tgi_server.kernels.native.coded import CodedLayers, is_coded
from tgi_server.kernels.native.layout import NAMES
from tgi_server.kernels.native.linear import pack
from tgi_server.kernels.native.operations import gate
from tgi_server.kernels.streamed import Streamed


def experts(layers: Iterable[Expert], mixture: Mixture, bias: Tensor | None, dtype: torch.dtype) -> ExpertsOp:
    """See `kernels.experts.experts`; dense weights are in `dtype`."""
    made = iter(layers)
    first = next(made)
    inputs, down = (_layers_of(weight, mixture.count, dtype) for weight in (first.inputs, first.down))
    for expert in chain([first], made):
        inputs.put(expert.inputs, expert.inputs_bias)
        down.put(expert.down, expert.down_bias)

    def run(x: Tensor, scores: Tensor, shared: Tensor | None = None) -> Tensor:
        chosen, rows = choose(x, scores, mixture, bias)
        whose = chosen.starts, chosen.active
        results = down(gate(inputs(rows, *whose), mixture.activation, mixture.gated, mixture.clamp), *whose)
        out = empty((len(x), x.shape[1]), dtype)
        call(
            f"combine_{NAMES[dtype]}", results.numel(), results, chosen.places, chosen.weights, shared, scores, out,
            len(x), x.shape[1], mixture.count, scores.shape[1], mixture.chosen,
        )  # fmt: skip
        return out

    return run


def _layers_of(weight: Format, count: int, dtype: torch.dtype) -> GroupedLinear | CodedLayers:
    """Room for the layers of all experts, which are like this one."""
    return CodedLayers(dtype) if is_coded(weight) else GroupedLinear(count, dtype)


class Choices(NamedTuple):
    """Which rows go to which expert: numbers and weights `[rows, chosen]`, the place of each when sorted by expert,
    where each expert's begin (and the end), and how many experts have rows and which. Weights are float32, else int64.
    """

    experts: Tensor
    weights: Tensor
    places: Tensor
    starts: Tensor
    active: Tensor


def choose(x: Tensor, scores: Tensor, mixture: Mixture, bias: Tensor | None) -> tuple[Choices, Tensor]:
    """The experts of each row, and the rows `[rows * chosen, hidden]` sorted by them."""
    (rows, size), columns = x.shape, scores.shape[1]
    each, of_experts = (rows, mixture.chosen), (mixture.count + 1,)
    numbers = torch.int64
    chosen = Choices(
        empty(each, numbers), empty(each, torch.float32), empty(each, numbers),
        empty(of_experts, numbers), empty(of_experts, numbers),
    )  # fmt: skip
    ordered = empty((rows * mixture.chosen, size), x.dtype)
    call(
        f"route_{NAMES[x.dtype]}", scores.numel() + ordered.numel(), scores, bias, x, *chosen, ordered,
        rows, size, mixture.count, columns, mixture.chosen, mixture.over_all,
    )  # fmt: skip
    return chosen, ordered


class GroupedLinear:
    """The same layer of all experts: `x @ weight.T * scale + bias` of rows that are sorted by expert.

    Args:
        count: experts.
        dtype: of inputs and outputs.
    """

    def __init__(self, count: int, dtype: torch.dtype) -> None:
        self._count, self._taken = count, 0
        self._dtype = dtype
        self._held: dict[str, Tensor] = {}
        self._outer = self._inner = 0

    def put(self, weight: Format, bias: Tensor | None) -> None:
        """Take the layer of the next expert, which need not stay."""
        assert isinstance(weight, Dense | Int8)
        packed = pack(Streamed.of(weight), self._dtype)
        self._outer, self._inner = packed.outputs, packed.inputs
        self._name = f"grouped_{NAMES[self._dtype]}_{NAMES[packed.panels.dtype]}_{NAMES[self._dtype]}"
        parts = {"weight": packed.panels}
        if packed.scale is not None:
            parts["scale"] = packed.scale
        if bias is not None:
            parts["bias"] = bias.float()
        for name, part in parts.items():
            if name not in self._held:
                self._held[name] = part.new_zeros((self._count, *part.shape))
            self._held[name][self._taken] = part
        self._taken += 1

    def __call__(self, x: Tensor, starts: Tensor, active: Tensor) -> Tensor:
        """`[choices, in]` to `[choices, out]`; see `Choices`."""
        out = empty((len(x), self._outer), self._dtype)
        weight, scale, bias = (self._held.get(name) for name in ("weight", "scale", "bias"))
        work = len(x) * self._outer * self._inner
        call(
            self._name, work, starts, active, x, weight, scale, bias, out,
            len(x), self._inner, self._outer,
        )  # fmt: skip
        return out

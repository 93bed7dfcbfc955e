"""Layers whose weights are codes in groups of inputs, over the compiled product (coded.cpp)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeGuard

import torch
from torch import Tensor

from tgi_server.kernels.formats import Format, Grouped, GroupedByteInputs, Int8Outlier, packed, unpacked
from tgi_server.kernels.native.build import tiles
from tgi_server.kernels.native.calls import call, empty
from tgi_server.kernels.native.layout import NAMES, PANEL
from tgi_server.kernels.streamed import Streamed

QUAD = 4
"""Inputs that lie together; a group is filled up to whole ones."""
COLLIDING = 2048
"""Bytes from row to row of which two are kept in the same few places of a cache: many such rows are copied."""
LONGEST = 1 << 17
"""Inputs of a group whose products, in steps, can be summed as int32."""
_PLAIN_BOOK = torch.arange(-8.0, 8.0)


def is_coded(weight: Format) -> TypeGuard[Grouped | Int8Outlier]:
    """Whether it is a format of this module."""
    return type(weight) in (Grouped, GroupedByteInputs, Int8Outlier)


@dataclass(frozen=True, slots=True)
class Coded:
    """A weight as the kernel reads it; coded.h describes panels, coded.cpp the rest.

    Attributes:
        panels: uint8 `[panels, quads, bytes of a block]`.
        scale: float32 `[panels, groups, 32]`.
        offset: bfloat16, the same, or None.
        book: float32 `[16]`, what codes of 4 bits stand for.
        order: int64 `[quads * 4]`, which input is where, -1 for none; None where all are where they were.
        ends: int64 `[groups]`, the quad after each group's last.
        outputs, inputs: of the layer.
        bits: of a code.
        own_book: whether `book` is not -8, -7, ...
        steps: whether inputs are multiplied in steps of 8 bits.
        threshold: of inputs that are not in steps.
    """

    panels: Tensor
    scale: Tensor
    offset: Tensor | None
    book: Tensor
    order: Tensor | None
    ends: Tensor
    outputs: int
    inputs: int
    bits: int
    own_book: bool
    steps: bool
    threshold: float

    def members(self, bias: Tensor | None) -> list[int]:
        """Those of `coded_weight` in layout.py."""
        tensors = (self.panels, self.scale, self.offset, self.book, self.order, self.ends, bias)
        quads, groups = self.panels.shape[1], len(self.ends)
        return [*(0 if t is None else t.data_ptr() for t in tensors), quads, groups, self.own_book]

    def room(self, dtype: torch.dtype) -> int:
        """Bytes of scratch memory for a row of inputs: see Made in coded.cpp. 0 where they are read as they are."""
        colliding = self.inputs * dtype.itemsize % COLLIDING == 0
        if not (self.steps or colliding or self.order is not None or self.offset is not None):
            return 0
        positions = QUAD * self.panels.shape[1]
        outliers = 8 + (8 * positions if self.threshold < math.inf else 0)
        parts = (positions * (1 if self.steps else dtype.itemsize), *3 * (4 * len(self.ends),), outliers)
        lines = sum(-(-part // 64) for part in parts)
        return 64 * (lines | 1)  # so that the same place of several rows is not kept in the same place of a cache


class CodedLayers:
    """One layer, or the same layer of all experts: `x @ weight.T + bias`.

    Args:
        dtype: of inputs and outputs.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        self._dtype = dtype
        self._layers: list[tuple[Coded, Tensor | None]] = []
        self._weights = torch.empty(0)

    def put(self, weight: Format | Streamed, bias: Tensor | None) -> None:
        """Take another layer, which need not stay."""
        made = code(weight if isinstance(weight, Streamed) else Streamed.of(weight), self._dtype)
        self._layers.append((made, None if bias is None else bias.float()))
        self._weights = torch.tensor([layer.members(own) for layer, own in self._layers], dtype=torch.int64)
        self._room = max(layer.room(self._dtype) for layer, _ in self._layers)
        tiled = self._dtype == torch.bfloat16 and tiles() is None
        self._seen = max(QUAD * layer.panels.shape[1] for layer, _ in self._layers) if tiled else 0
        self._name = f"coded_{made.bits}_{NAMES[self._dtype]}" + ("_steps" if made.steps else "")

    def __call__(self, x: Tensor, starts: Tensor | None = None, active: Tensor | None = None) -> Tensor:
        """`[rows, in]` to `[rows, out]`; of experts `starts` and `active`, see `experts.Choices`."""
        first, (rows, inner) = self._layers[0][0], x.shape
        if inner != first.inputs or x.dtype != self._dtype:
            raise ValueError(f"{inner} inputs in {x.dtype} for a layer of {first.inputs} in {self._dtype}")
        out = empty((rows, first.outputs), self._dtype)
        size = rows * (self._room + 2 * self._seen)
        scratch = empty((size,), torch.uint8) if size else None
        call(
            self._name, rows * first.outputs * inner, starts, active, self._weights, x, out, scratch,
            rows, inner, first.outputs, self._room, self._seen, first.threshold,
        )  # fmt: skip
        return out


def code(weight: Streamed, dtype: torch.dtype) -> Coded:
    """A weight packed for inputs of `dtype`. Raises ValueError for groups too long for sums of steps."""
    sample = weight.sample()
    assert is_coded(sample)
    first = _grouped(sample)
    steps = type(sample) is not Grouped
    order, ends, present = _arranged(first.groups)
    sizes = ends.diff(prepend=ends.new_zeros(1))
    if steps and QUAD * int(sizes.max()) > LONGEST:
        raise ValueError(f"a group of {QUAD * int(sizes.max())} inputs, of which {LONGEST} in steps can be summed")
    panels, quads = -(-weight.outputs // PANEL), int(ends[-1])
    codes = torch.empty((panels, quads, PANEL * QUAD * first.bits // 8), dtype=torch.uint8)
    scale = torch.zeros(panels, len(ends), PANEL)
    offset = None if first.offset is None else torch.zeros(scale.shape, dtype=torch.bfloat16)
    unit = 4 if steps else 4 // dtype.itemsize

    def place(start: int, part: Format) -> None:
        assert is_coded(part)
        part = _grouped(part)
        rows, at = _in_order(part, order), slice(start // PANEL, -(-(start + len(part.codes)) // PANEL))
        if part.bits == 4:
            codes[at] = _blocks(rows)
        else:
            numbers = rows if steps else rows ^ 128
            call(f"pack_{8 * unit}", rows.numel(), numbers, codes[at], len(rows), rows.shape[1] // unit)
        _spread(part.scale[:, present], scale[at])
        if offset is not None:
            assert part.offset is not None
            _spread(part.offset[:, present], offset[at])

    weight.each(place)
    threshold = sample.threshold if isinstance(sample, Int8Outlier) else math.inf
    book = _PLAIN_BOOK if first.book is None else first.book.float().contiguous()
    return Coded(
        codes, scale, offset, book, order, ends, weight.outputs, first.inputs, first.bits, first.book is not None,
        steps, threshold,
    )  # fmt: skip


def _grouped(weight: Grouped | Int8Outlier) -> Grouped:
    """Whole numbers with one scale are codes of 8 bits in one group."""
    if isinstance(weight, Grouped):
        return weight
    groups = torch.zeros(weight.inputs, dtype=torch.int64)
    return Grouped(weight.steps.view(torch.uint8) ^ 128, weight.scale.unsqueeze(1), None, groups, None)


def _arranged(groups: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
    """Inputs sorted by group and filled up to whole quads (`Coded.order`, `ends`), and which groups there are."""
    present, counts = groups.unique(return_counts=True)  # type: ignore[no-untyped-call]
    quads = -(-counts // QUAD)
    ends = quads.cumsum(0)
    begins = ends - quads
    inputs = groups.argsort(stable=True)
    within = torch.arange(len(groups)) - (counts.cumsum(0) - counts).repeat_interleave(counts)
    order = torch.full((QUAD * int(ends[-1]),), -1)
    order[QUAD * begins.repeat_interleave(counts) + within] = inputs
    return (None if torch.equal(order, torch.arange(len(groups))) else order), ends, present


def _in_order(part: Grouped, order: Tensor | None) -> Tensor:
    """Its codes as bytes, one or two to each; for inputs that are not there any."""
    if order is None:
        return part.codes.contiguous()
    numbers = (unpacked(part.codes) if part.bits == 4 else part.codes)[:, order.clamp(min=0)]
    return packed(numbers) if part.bits == 4 else numbers.contiguous()


def _blocks(rows: Tensor) -> Tensor:
    """Codes of 4 bits `[out, quads * 2]`, two to a byte, as blocks `[panels, quads, 64]`."""
    panels = -(-len(rows) // PANEL)
    if len(rows) % PANEL:
        rows = torch.cat([rows, rows.new_zeros(panels * PANEL - len(rows), rows.shape[1])])
    lower, upper = rows.view(panels, 2, PANEL // 2, -1, 2).unbind(1)
    even, odd = lower & 15 | upper << 4, lower >> 4 | upper & 240
    quads = torch.cat((even, odd), dim=-1).view(torch.int32).squeeze(-1)
    return quads.transpose(1, 2).contiguous().view(torch.uint8)


def _spread(numbers: Tensor, into: Tensor) -> None:
    """Numbers `[out, groups]` as `[panels, groups, 32]`; zeros where an output is not there stay."""
    for panel, own in zip(into, numbers.split(PANEL), strict=True):  # type: ignore[no-untyped-call]
        panel[:, : len(own)] = own.T

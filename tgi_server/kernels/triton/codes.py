"""How codes in groups of inputs lie on a GPU.

Inputs are taken group by group, in runs of up to 64. Of 4-bit codes a byte has one of a run in its low half and one of
the next run in its high half, so that both halves of a tile of bytes are products with inputs that lie side by side,
and, where groups are made of whole runs (`Layout.size`), each half has one scale an output. Scales lie group by group:
those of the outputs of a tile are read in one piece. Offsets have 32 bits, as smaller ones are not fetched ahead of
their use (`cp.async` copies at least 4 bytes).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import gcd
from typing import NamedTuple

import torch
from torch import Tensor

from tgi_server.kernels.formats import Grouped, GroupedByteInputs, in_steps, unpacked

LONGEST_RUN = 64
SHORTEST_RUN = 16
"""Of inputs: the shortest that tensor cores multiply."""
_PART = 4096
"""Outputs that are rearranged together."""


class Layout(NamedTuple):
    """How the inputs of a layer, sorted by group, make groups.

    Attributes:
        run: inputs that lie side by side in a tile.
        size: of every group, but of the last one and, by `missing`, of the first; the group of input i is
            `(i + missing) // size`. 0 where groups have different sizes, or are not made of whole runs.
        missing: how much smaller the first group is.
        sorted: whether the inputs have to be sorted.
    """

    run: int
    size: int
    missing: int
    sorted: bool


class Packed(NamedTuple):
    """Codes as the kernels read them; of experts all have one more dimension in front.

    Attributes:
        codes: `[out, bytes]`, the last ones padding: uint8, two codes of 4 bits; or int8, `code - 128`.
        scale: float32 `[groups, out]`.
        offset: int32 `[groups, out]`, or None.
        book: float32 `[16]`, which experts share, or None.
        groups: int32 `[in]`, the group of each sorted input; None where `layout.size` tells it.
        order: int32 `[in]`, the input at each place once they are sorted; None where they need not be.
        layout: of the inputs.
    """

    codes: Tensor
    scale: Tensor
    offset: Tensor | None
    book: Tensor | None
    groups: Tensor | None
    order: Tensor | None
    layout: Layout

    @property
    def bits(self) -> int:
        """Of a code."""
        return 4 if self.codes.dtype == torch.uint8 else 8


def pack(weight: Grouped, layout: Layout | None = None) -> Packed:
    """A weight in another order; in a layout of its own, or one that others share (see `layout_of`)."""
    layout = layout or layout_of([weight])
    _, order, groups, seen = _sorted(weight)
    run, per_byte = layout.run, 8 // weight.bits
    blocks = -(-weight.inputs // (run * per_byte))
    codes = weight.codes.new_empty((len(weight.codes), blocks * run))
    for first in range(0, len(codes), _PART):
        part = weight.codes[first : first + _PART]
        codes[first : first + _PART] = _arranged(part, order if layout.sorted else None, weight.bits, run, blocks)
    book = weight.book
    if book is not None and isinstance(weight, GroupedByteInputs):
        book = in_steps(book)
    return Packed(
        codes if weight.bits == 4 else (codes ^ 128).view(torch.int8),
        weight.scale[:, seen].t().contiguous(),
        None if weight.offset is None else weight.offset[:, seen].t().to(torch.int32).contiguous(),
        book,
        None if layout.size else groups.to(torch.int32),
        order.to(torch.int32) if layout.sorted else None,
        layout,
    )


def layout_of(weights: Sequence[Grouped]) -> Layout:
    """One in which all of these can be kept."""
    layouts = {_layout(weight) for weight in weights}
    ordered = any(layout.sorted for layout in layouts)
    if len({layout[:3] for layout in layouts}) == 1:
        return layouts.pop()._replace(sorted=ordered)
    return Layout(LONGEST_RUN, 0, 0, ordered)


def _layout(weight: Grouped) -> Layout:
    unsorted, _, groups, seen = _sorted(weight)
    counts = groups.bincount().tolist()
    size = max(counts)
    missing = size - counts[0] if len(seen) > 1 else 0
    common = gcd(size, missing) if len(seen) > 1 else LONGEST_RUN
    run = min(common & -common, LONGEST_RUN)
    regular = run >= SHORTEST_RUN and bool(((torch.arange(len(groups)).to(groups) + missing) // size == groups).all())
    return Layout(run, size, missing, unsorted) if regular else Layout(LONGEST_RUN, 0, 0, unsorted)


def _sorted(weight: Grouped) -> tuple[bool, Tensor, Tensor, Tensor]:
    """Whether inputs do not lie group by group, their order when they do, the groups then, numbered from 0 without gaps
    (int64 `[in]`), and which groups these are.
    """
    groups, order = weight.groups.sort(stable=True)
    seen, numbered = torch.unique_consecutive(groups, return_inverse=True)
    return not torch.equal(groups, weight.groups), order, numbered, seen


def _arranged(codes: Tensor, order: Tensor | None, bits: int, run: int, blocks: int) -> Tensor:
    """Bytes `[out, blocks * run]` of the codes of some outputs."""
    numbers = unpacked(codes) if bits == 4 else codes
    numbers = numbers if order is None else numbers[:, order]
    room = numbers.new_zeros((len(numbers), blocks * run * 8 // bits))
    room[:, : numbers.shape[1]] = numbers
    if bits == 8:
        return room
    low, high = room.view(len(room), blocks, 2, run).unbind(2)
    return (low | high << 4).flatten(1)


def stacked(weights: Sequence[Grouped]) -> Packed:
    """The weights of experts, of one shape and kind, in one layout."""
    layout = layout_of(weights)
    if any(weight.offset is not None for weight in weights):
        weights = [weight if weight.offset is not None else _with_offset(weight) for weight in weights]
    packs = [pack(weight, layout) for weight in weights]
    groups = max(len(one.scale) for one in packs)

    def together(tensors: Sequence[Tensor | None]) -> Tensor | None:
        there = [tensor for tensor in tensors if tensor is not None]
        return torch.stack(there) if there else None

    scale = torch.stack([_padded(one.scale, groups) for one in packs])
    offset = together([None if one.offset is None else _padded(one.offset, groups) for one in packs])
    order, group = together([one.order for one in packs]), together([one.groups for one in packs])
    return Packed(torch.stack([one.codes for one in packs]), scale, offset, packs[0].book, group, order, layout)


def _with_offset(weight: Grouped) -> Grouped:
    return replace(weight, offset=torch.zeros_like(weight.scale))


def _padded(tensor: Tensor, groups: int) -> Tensor:
    room = tensor.new_zeros((groups, tensor.shape[1]))
    room[: len(tensor)] = tensor
    return room

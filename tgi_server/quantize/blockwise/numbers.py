"""Blockwise rounding as bitsandbytes does it: largest numbers of blocks, nearest codes, statistics in 8 bits."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from tgi_server.kernels import threads
from tgi_server.kernels.formats import packed
from tgi_server.quantize.base import Cut

CELLS = 128
"""Into so many equal parts 0 to 1 is divided to find the nearest of 16 numbers; no part has two bounds between them."""
SMALLEST = 1e-30
"""A block whose largest number is less is one of zeros."""
ROUNDED = 1 << 16
"""About so many weights are rounded together."""
STATISTICS = 256
"""Statistics that are rounded together."""


class Cells(NamedTuple):
    """Of `CELLS` times a number from -1 to 1: where the bound in its cell is (float32 `[2 * CELLS + 1]`), and the codes
    below and above it (uint8 `[2 * (2 * CELLS + 1)]`)."""

    bounds: Tensor
    codes: Tensor


def cells(book: Tensor) -> Cells:
    """For 16 numbers in any order: the bounds between them are halfway, and belong to the lower one."""
    values = torch.unique_consecutive(book.sort().values)  # FP4 has two zeros
    code = (book == values.unsqueeze(1)).int().argmax(dim=1).to(torch.uint8)
    halfway = (values[:-1] + values[1:]) / 2 * CELLS
    first = torch.bucketize(torch.arange(-CELLS, CELLS + 1, device=book.device), halfway)
    bounds = pad(halfway, (0, 1), value=torch.inf)[first]
    both = torch.stack((first, (first + 1).clamp(max=len(values) - 1)), dim=1)
    return Cells(bounds, code[both].flatten())


def largest(weight: Tensor, block: int) -> Tensor:
    """The largest size of a number in each block of a row: `[out, in]` to float32 `[out, blocks]`."""
    outputs, inputs = weight.shape
    found = torch.empty((outputs, -(-inputs // block)), device=weight.device)

    def part(first: int) -> None:
        rows = _blocks(weight[first : first + step].float(), block)
        found[first : first + step] = rows.abs().amax(dim=2)

    step = _step(inputs)
    threads.each(part, range(0, outputs, step))
    return found


def codes(weight: Tensor, most: Tensor, block: int, book: Tensor, cut: Cut) -> Tensor:
    """The nearest of the book's 16 numbers for what is cut of `weight [out, in]`, given its `largest`.

    Returns them as `formats.packed` does; where the inputs are odd in number, with one more.
    """
    inputs = cut.inputs or ((0, weight.shape[1]),)
    chosen = None if cut.outputs is None else positions(cut.outputs).to(weight.device)
    outputs, own = len(weight) if chosen is None else len(chosen), cells(book)
    bytes = -(-sum(stop - start for start, stop in inputs) // 2)
    found = torch.empty((outputs, bytes), dtype=torch.uint8, device=weight.device)

    def part(first: int) -> None:
        rows = slice(first, first + step) if chosen is None else chosen[first : first + step]
        values, sizes = weight[rows], most[rows]
        runs = [_run(values, sizes, block, start, stop, own) for start, stop in inputs]
        found[first : first + step] = packed_with_odd(runs[0] if len(runs) == 1 else torch.cat(runs, dim=1))

    step = _step(weight.shape[1])
    threads.each(part, range(0, outputs, step))
    return found


def _run(values: Tensor, most: Tensor, block: int, start: int, stop: int, own: Cells) -> Tensor:
    """Codes of the inputs [start, stop), uint8, by the blocks of the whole."""
    first, last = start // block, -(-stop // block)
    blocks = _blocks(values[:, first * block : last * block], block)
    found = _nearest(blocks, most[:, first:last], own)
    return found.view(len(values), -1)[:, start - first * block : stop - first * block]


def _nearest(blocks: Tensor, most: Tensor, own: Cells) -> Tensor:
    """Codes `[rows, blocks, block]`, uint8; divided by the largest as the package does, by its reciprocal."""
    scaled = blocks * (CELLS / most.clamp(min=SMALLEST)).unsqueeze(2)
    cell = (scaled + CELLS).int().flatten()
    above = scaled.flatten() > own.bounds.index_select(0, cell)
    return own.codes.index_select(0, cell.mul_(2).add_(above)).view(blocks.shape)


def packed_with_odd(numbers: Tensor) -> Tensor:
    """`formats.packed`, after a zero where that is needed."""
    return packed(pad(numbers, (0, 1)) if numbers.shape[1] % 2 else numbers)


def positions(spans: tuple[tuple[int, int], ...]) -> Tensor:
    """All numbers in them, int64."""
    return torch.cat([torch.arange(start, stop) for start, stop in spans])


def compressed(statistics: Tensor) -> Tensor:
    """Float32 statistics of any shape as they are after double quantisation: their distances from the mean are rounded
    to 8 bits, in blocks of 256."""
    mean, flat = statistics.mean(), statistics.flatten()
    apart = pad(flat - mean, (0, -len(flat) % STATISTICS)).view(-1, STATISTICS)
    most = apart.abs().amax(dim=1, keepdim=True)
    nearest = _nearest_dynamic((apart * (1 / most.clamp(min=SMALLEST))).flatten()).view(apart.shape)
    return (nearest * most + mean).flatten()[: len(flat)].view(statistics.shape)


def _nearest_dynamic(x: Tensor) -> Tensor:
    """The nearest of `dynamic_numbers` to numbers from -1 to 1, float32 `[n]`; the lower one in the middle.

    The first 16 bits of a number tell it up to a choice of two.
    """
    numbers, bounds, first = (table.to(x.device) for table in _dynamic_tables())
    number = first.index_select(0, (x.view(torch.int32) >> 16) + (1 << 15))
    return numbers.index_select(0, number + (x > bounds.index_select(0, number)))


@cache
def _dynamic_tables() -> tuple[Tensor, Tensor, Tensor]:
    """The numbers, the bound after each, and of all first 16 bits, in the order of their whole numbers, the first
    number that they may mean (int32)."""
    numbers = dynamic_numbers()
    bounds = pad((numbers[:-1] + numbers[1:]) / 2, (0, 1), value=torch.inf)
    bits = torch.arange(-(1 << 15), 1 << 15, dtype=torch.int32) << 16
    least = torch.where(bits < 0, bits | 0xFFFF, bits).view(torch.float32)
    first = torch.searchsorted(bounds[:-1], least.nan_to_num(0.0), out_int32=True)
    return numbers, bounds, first


@cache
def dynamic_numbers() -> Tensor:
    """The 256 numbers of the dynamic 8-bit type (arXiv:1511.04561), float32, in order.

    In each of seven decades below 1 there are equal steps, twice as many as in the one below it, and the middles of
    them, with both signs; then 0 and 1.
    """
    found = [torch.tensor([0.0, 1.0])]
    for decade in range(7):
        edges = torch.linspace(0.1, 1, (1 << decade) + 1)
        middles = (edges[:-1] + edges[1:]) / 2 * 10.0 ** (decade - 6)
        found += [middles, -middles]
    return torch.cat(found).sort().values


def _blocks(values: Tensor, block: int) -> Tensor:
    """`[rows, inputs]` as `[rows, blocks, block]`, filled up with zeros."""
    missing = -values.shape[1] % block
    return (pad(values, (0, missing)) if missing else values).reshape(len(values), -1, block)


def _step(inputs: int) -> int:
    """Rows that are rounded together: what is made of them between stays near the processor, and is soon given back."""
    return max(1, ROUNDED // inputs)

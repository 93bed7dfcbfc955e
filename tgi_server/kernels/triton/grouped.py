"""Product with codes in groups of inputs: awq, gptq, nf4, fp4 (`formats.Grouped`).

Up to MOST_FUSED rows codes become numbers in registers and are read once; a scale is applied to the sums over the run
of inputs that shares it, in float32, so that the factors themselves are exact, but for codebooks. More rows are
multiplied by the widened matrix, which cuBLAS does best.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from tgi_server.kernels.formats import Grouped, GroupedByteInputs
from tgi_server.kernels.triton.codes import Packed, pack
from tgi_server.kernels.triton.inputs import rounded_in_groups, starts_of

FEW_ROWS = 16
MOST_FUSED = 64
"""Rows up to which codes are used as they are."""
_WIDENED = 1 << 25
"""Numbers of a matrix that are widened together, about: other memory than for this is not needed."""
_BLOCKS = 8
"""Runs of bytes that a program of one row, or one that widens, takes at a time."""


@triton.jit
def number_of(code, offset, book, BITS: tl.constexpr):
    """The numbers of codes plus their offset, None for 0; whole ones of 8 or 16 bits if there is no book."""
    if book is not None:
        number = tl.load(book + code.to(tl.int32))
        if offset is not None:
            number = number + offset.to(number.dtype)
    elif BITS == 4:
        number = code.to(tl.int8) - 8
        if offset is not None:
            number = number + offset.to(tl.int8)
    else:
        number = code
        if offset is not None:
            number = number.to(tl.int16) + offset.to(tl.int16)
    return number


@triton.jit
def grouped_sums(
    from_x, wanted, from_codes, output, exists, scale, offset, book, groups, order,
    outputs, inputs, blocks, size, missing, last,
    BITS: tl.constexpr, RUN: tl.constexpr, OUT: tl.constexpr, ROWS: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Sums `[OUT, ROWS]` over all inputs. `from_x [ROWS]`, `from_codes [OUT]`: where rows begin; see `codes.Packed`.

    All that is loaded is fetched STAGES - 1 blocks ahead, but for numbers of a book, which stay near.
    """
    place = tl.arange(0, RUN)
    sums = tl.zeros([OUT, ROWS], tl.float32)
    for block in tl.range(0, blocks, num_stages=STAGES):
        packed = tl.load(from_codes[:, None] + (block * RUN + place)[None, :], mask=exists[:, None], other=0)
        for part in tl.static_range(8 // BITS):
            first = (block * (8 // BITS) + part) * RUN
            input = first + place
            inside = input < inputs
            source = input
            if order is not None:
                source = tl.load(order + input, mask=inside, other=0)
            columns = tl.load(from_x[None, :] + source[:, None], mask=inside[:, None] & wanted[None, :], other=0.0)
            code = packed
            if BITS == 4:
                code = (packed >> (4 * part)) & 15
            added = None
            if groups is None:
                at = tl.minimum((first + missing) // size, last) * outputs + output
                each = tl.load(scale + at, mask=exists, other=0.0)
                if offset is not None:
                    added = tl.load(offset + at, mask=exists, other=0)[:, None]
                number = number_of(code, added, book, BITS).to(columns.dtype)
                sums += tl.dot(number, columns, input_precision="ieee") * each[:, None]
            else:
                group = tl.load(groups + input, mask=inside, other=0)
                at, mask = group[None, :] * outputs + output[:, None], exists[:, None] & inside[None, :]
                if offset is not None:
                    added = tl.load(offset + at, mask=mask, other=0)
                number = number_of(code, added, book, BITS).to(tl.float32)
                number = number * tl.load(scale + at, mask=mask, other=0.0)
                sums += tl.dot(number.to(columns.dtype), columns, input_precision="ieee")
    return sums


@triton.jit(do_not_specialize=["rows", "blocks", "last"])
def _grouped_rows(
    x, codes, scale, offset, book, groups, order, bias, out, rows, outputs, inputs, blocks, size, missing, last,
    BITS: tl.constexpr, RUN: tl.constexpr, OUT: tl.constexpr, ROWS: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """One program OUT outputs of ROWS rows, transposed: codes become numbers where the first factor is."""
    output = tl.program_id(0) * OUT + tl.arange(0, OUT)
    row = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    exists, wanted = output < outputs, row < rows
    sums = grouped_sums(
        x + row.to(tl.int64) * inputs, wanted, codes + output.to(tl.int64) * (blocks * RUN), output, exists,
        scale, offset, book, groups, order, outputs, inputs, blocks, size, missing, last,
        BITS, RUN, OUT, ROWS, STAGES,
    )  # fmt: skip
    if bias is not None:
        sums += tl.load(bias + output, mask=exists, other=0.0).to(tl.float32)[:, None]
    to = out + row.to(tl.int64)[None, :] * outputs + output[:, None]
    tl.store(to, sums.to(out.dtype.element_ty), mask=exists[:, None] & wanted[None, :])


@triton.jit
def _weights(
    packed, part, block, output, mask, scale, offset, book, groups,
    outputs, inputs, size, missing, last, BITS: tl.constexpr, RUN: tl.constexpr,
):  # fmt: skip
    """Weights `[OUT, BLOCKS, RUN]` in float32 of bytes of that shape, and the inputs `[BLOCKS, RUN]` they are of."""
    first = (block * (8 // BITS) + part) * RUN
    input = first[:, None] + tl.arange(0, RUN)[None, :]
    code = packed
    if BITS == 4:
        code = (packed >> (4 * part)) & 15
    added = None
    if groups is None:
        at = (tl.minimum((first + missing) // size, last) * outputs)[None, :] + output[:, None]
        there = (output < outputs)[:, None]
        each = tl.load(scale + at, mask=there, other=0.0)[:, :, None]
        if offset is not None:
            added = tl.load(offset + at, mask=there, other=0)[:, :, None]
    else:
        group = tl.load(groups + input, mask=input < inputs, other=0)
        at = (group * outputs)[None, :, :] + output[:, None, None]
        each = tl.load(scale + at, mask=mask, other=0.0)
        if offset is not None:
            added = tl.load(offset + at, mask=mask, other=0)
    return number_of(code, added, book, BITS).to(tl.float32) * each, input


@triton.jit(do_not_specialize=["blocks", "last"])
def _grouped_row(
    x, codes, scale, offset, book, groups, order, bias, out, outputs, inputs, blocks, size, missing, last,
    BITS: tl.constexpr, RUN: tl.constexpr, OUT: tl.constexpr, BLOCKS: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """One program OUT outputs of the only row; sums stay apart until the end."""
    output = tl.program_id(0) * OUT + tl.arange(0, OUT)
    exists = output < outputs
    from_codes = codes + output.to(tl.int64)[:, None, None] * (blocks * RUN) + tl.arange(0, RUN)[None, None, :]
    sums = tl.zeros([OUT, BLOCKS, RUN], tl.float32)
    for start in tl.range(0, blocks, BLOCKS, num_stages=STAGES):
        block = start + tl.arange(0, BLOCKS)
        mask = exists[:, None, None] & (block < blocks)[None, :, None]
        packed = tl.load(from_codes + (block * RUN)[None, :, None], mask=mask, other=0)
        for part in tl.static_range(8 // BITS):
            weight, input = _weights(
                packed, part, block, output, mask, scale, offset, book, groups,
                outputs, inputs, size, missing, last, BITS, RUN,
            )  # fmt: skip
            inside = input < inputs
            source = input
            if order is not None:
                source = tl.load(order + input, mask=inside, other=0)
            sums += weight * tl.load(x + source, mask=inside, other=0.0).to(tl.float32)[None, :, :]
    sum = tl.sum(tl.sum(sums, axis=2), axis=1)
    if bias is not None:
        sum += tl.load(bias + output, mask=exists, other=0.0).to(tl.float32)
    tl.store(out + output, sum.to(out.dtype.element_ty), mask=exists)


@triton.jit(do_not_specialize=["begin", "end", "blocks", "last"])
def _widen(
    codes, scale, offset, book, groups, wide, begin, end, outputs, inputs, blocks, size, missing, last,
    BITS: tl.constexpr, RUN: tl.constexpr, OUT: tl.constexpr, BLOCKS: tl.constexpr,
):  # fmt: skip
    """One program BLOCKS runs of bytes of OUT of the outputs [begin, end)."""
    row = tl.program_id(0) * OUT + tl.arange(0, OUT)
    output, block = begin + row, tl.program_id(1) * BLOCKS + tl.arange(0, BLOCKS)
    mask = (output < end)[:, None, None] & (block < blocks)[None, :, None]
    from_codes = codes + output.to(tl.int64)[:, None, None] * (blocks * RUN) + tl.arange(0, RUN)[None, None, :]
    packed = tl.load(from_codes + (block * RUN)[None, :, None], mask=mask, other=0)
    for part in tl.static_range(8 // BITS):
        weight, input = _weights(
            packed, part, block, output, mask, scale, offset, book, groups,
            outputs, inputs, size, missing, last, BITS, RUN,
        )  # fmt: skip
        to = wide + row.to(tl.int64)[:, None, None] * inputs + input[None, :, :]
        tl.store(to, weight.to(wide.dtype.element_ty), mask=mask & (input < inputs)[None, :, :])


def rounded(packed: Packed, dtype: torch.dtype) -> Packed:
    """With a book in the type that is multiplied. One of 16 bits is looked up where it is, in the nearest cache: it is
    too small to be fetched ahead, which for numbers that 16 of them have to do with would only cost time.
    """
    return packed if packed.book is None else packed._replace(book=packed.book.to(dtype))


def held(packed: Packed, outputs: int, inputs: int) -> tuple[list[Any], list[int], dict[str, int]]:
    """What kernels take: tensors `codes, scale, offset, book, groups, order`, numbers from `outputs` on, constants."""
    codes, scale, offset, book, groups, order, layout = packed
    numbers = [outputs, inputs, codes.shape[-1] // layout.run, layout.size, layout.missing, scale.shape[-2] - 1]
    return [codes, scale, offset, book, groups, order], numbers, {"BITS": packed.bits, "RUN": layout.run}


def tile(packed: Packed, few: bool, dtype: torch.dtype) -> dict[str, int]:
    """Outputs and rows of a program, and stages of its loop: what that fetches ahead fits in any GPU's shared memory,
    a scale for each weight at worst.
    """
    small, exact = packed.groups is not None, packed.book is not None and packed.book.dtype == torch.float32
    return {
        "OUT": 32 if few or small else 64,
        "ROWS": FEW_ROWS if few else 128 // dtype.itemsize,
        "STAGES": 2 if small or exact else 3,
    }


class GroupedLinear:
    """`x @ weight.T + bias` of inputs in `dtype`; the weight is kept in another order, as `codes.Packed`."""

    def __init__(self, weight: Grouped, bias: Tensor | None, dtype: torch.dtype) -> None:
        self._outputs, self._inputs, self._bias = len(weight.codes), weight.inputs, bias
        self._exact = pack(weight)
        self._see: Callable[[Tensor], Tensor] | None = None
        if isinstance(weight, GroupedByteInputs):
            self._see = partial(rounded_in_groups, starts=starts_of(weight.groups), order=self._exact.order)
            self._exact = self._exact._replace(order=None)
        self._packed = rounded(self._exact, dtype)

    def __call__(self, x: Tensor) -> Tensor:
        """`[rows, in]` to `[rows, out]`, in the dtype of `x`."""
        rows, out = len(x), x.new_empty(len(x), self._outputs)
        if self._see is not None:
            x = self._see(x)
        if rows > MOST_FUSED:
            return self._multiply_widened(x, out)
        tensors, numbers, constants = held(self._packed, self._outputs, self._inputs)
        sizes = tile(self._packed, rows <= FEW_ROWS, x.dtype)
        if rows == 1:
            _grouped_row[(triton.cdiv(self._outputs, 8),)](
                x, *tensors, self._bias, out, *numbers, **constants, OUT=8, BLOCKS=_BLOCKS, STAGES=sizes["STAGES"]
            )
            return out
        _grouped_rows[(triton.cdiv(self._outputs, sizes["OUT"]), triton.cdiv(rows, sizes["ROWS"]))](
            x, *tensors, self._bias, out, rows, *numbers, **constants, **sizes, num_warps=4
        )
        return out

    def _multiply_widened(self, x: Tensor, out: Tensor) -> Tensor:
        """Some outputs after the other."""
        (*tensors, order), numbers, constants = held(self._exact, self._outputs, self._inputs)
        if order is not None:
            x = x.index_select(1, order)
        step = min(max(_WIDENED // self._inputs // 64, 1) * 64, self._outputs)
        room, blocks = x.new_empty(step, self._inputs), triton.cdiv(numbers[2], _BLOCKS)
        for begin in range(0, self._outputs, step):
            end = min(begin + step, self._outputs)
            wide = room[: end - begin]
            _widen[(triton.cdiv(end - begin, 8), blocks)](
                *tensors, wide, begin, end, *numbers, **constants, OUT=8, BLOCKS=_BLOCKS
            )
            if self._bias is None:
                torch.mm(x, wide.t(), out=out[:, begin:end])
            else:
                torch.addmm(self._bias[begin:end], x, wide.t(), out=out[:, begin:end])
        return out

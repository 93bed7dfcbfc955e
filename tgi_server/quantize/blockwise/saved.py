"""The tensors of one layer as bitsandbytes saves them, to codes and scales."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from tgi_server.kernels.formats import unpacked
from tgi_server.quantize.base import Cut
from tgi_server.quantize.blockwise.numbers import packed_with_odd, positions
from tgi_server.quantize.blockwise.reading import State


def check(parts: Mapping[str, Tensor], state: State) -> None:
    """Raise ValueError unless the tensors have as many entries as a layer of this shape needs."""
    numbers = state.shape[0] * state.shape[1]
    blocks = -(-numbers // state.blocksize)
    nested = parts["absmax"].dtype == torch.uint8
    wanted = {"absmax": blocks, "quant_map": 16}
    if nested:
        wanted |= {"nested_absmax": -(-blocks // state.nested_blocksize), "nested_quant_map": 256}
    if missing := [name for name in wanted if name not in parts]:
        raise ValueError(f"its weight.{missing[0]} is missing")
    for name, count in wanted.items():
        if parts[name].numel() != count:
            raise ValueError(
                f"its weight.{name} has {parts[name].numel()} entries, {count} were expected of a matrix "
                f"{list(state.shape)} in blocks of {state.blocksize}"
            )
    size = parts["weight"].numel() * parts["weight"].element_size()
    if size < -(-numbers // 2):
        raise ValueError(f"its weight has {size} bytes, which is too few for a matrix {list(state.shape)}")


def scales(parts: Mapping[str, Tensor], state: State, step: int) -> Tensor:
    """The scale of every `step` inputs, which divides both a row and a block: float32 `[out, in / step]`.

    Raises ValueError where statistics are no numbers.
    """
    (outputs, inputs), absmax = state.shape, parts["absmax"]
    if absmax.dtype == torch.uint8:
        most = parts["nested_absmax"].repeat_interleave(state.nested_blocksize)[: len(absmax)]
        absmax = parts["nested_quant_map"][absmax.long()] * most + state.nested_offset
    if inputs % state.blocksize:
        first = torch.arange(0, outputs * inputs, step, device=absmax.device)
        absmax = absmax[first // state.blocksize]
    scales = absmax.float().view(outputs, inputs // step)
    if not bool(scales.isfinite().all() and parts["quant_map"].isfinite().all()):
        raise ValueError("its statistics (absmax, quant_map, nested ones) are not all finite numbers")
    return scales


def codes(bytes: Tensor, outputs: int, inputs: int, cut: Cut) -> Tensor:
    """What is cut of a matrix whose codes lie output by output, the first one of a byte in its high half.

    Returns them as `numbers.codes` does. Raises ValueError where less is there than is to be cut.
    """
    if any(stop > size for spans, size in ((cut.outputs, outputs), (cut.inputs, inputs)) for _, stop in spans or ()):
        raise ValueError(f"its matrix is [{outputs}, {inputs}], and more was expected")
    swapped = bytes >> 4 | bytes << 4
    if inputs % 2:
        numbers = unpacked(swapped.view(1, -1)).view(-1)[: outputs * inputs].view(outputs, inputs)
        return packed_with_odd(_cut(numbers, cut, 1))
    rows = swapped.view(outputs, inputs // 2)
    if all(edge % 2 == 0 for span in cut.inputs or () for edge in span):
        return _cut(rows, cut, 2)
    return packed_with_odd(_cut(unpacked(rows), cut, 1))


def _cut(matrix: Tensor, cut: Cut, numbers: int) -> Tensor:
    """Rows and columns of a matrix whose elements hold so many inputs each."""
    if cut.outputs is not None:
        matrix = matrix[positions(cut.outputs).to(matrix.device)]
    if cut.inputs is not None:
        matrix = torch.cat([matrix[:, start // numbers : stop // numbers] for start, stop in cut.inputs], dim=1)
    return matrix

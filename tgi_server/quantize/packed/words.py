"""Numbers of a few bits out of int32 words, and the format that kernels take made of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tgi_server.kernels.formats import Grouped
from tgi_server.quantize.base import Span

AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
"""Which of eight neighbouring outputs each 4 bits of a word hold, from the lowest on (AutoAWQ's `gemm`)."""


def numbers(words: Tensor, bits: int) -> Tensor:
    """Int32 words `[rows, words]`, filled from their lowest bit on, as uint8 `[rows, numbers]`.

    Of 3 bits a number may lie in two words; as bytes, 8 numbers always fill as many as they have bits.
    """
    if bits == 8:
        return _bytes(words)
    eights = _bytes(words).view(len(words), words.shape[1] * 4 // bits, bits)
    found = eights.new_empty(*eights.shape[:2], 8)
    for number in range(8):
        byte, shift = divmod(number * bits, 8)
        own = eights[..., byte] >> shift
        if shift + bits > 8:
            own = own | eights[..., byte + 1] << (8 - shift)
        found[..., number] = own & (1 << bits) - 1
    return found.flatten(1)


def given_back(words: Tensor, bits: int) -> Tensor:
    """Zeros of GPTQModel, int32 `[groups, words]`, as they were before it took 1 of each to store them.

    It takes from words what AutoGPTQ takes from numbers: one of 0 borrows from its neighbour; and of 3 bits it takes 4,
    1 or 2 instead, by which of three words a number is in, which it gives back when it reads its own checkpoints.
    """
    ones = {2: (0x55555555,), 3: (0x24924924, 0x92492492, 0x49249249), 4: (0x11111111,), 8: (0x01010101,)}[bits]
    taken = torch.tensor([one - (one >> 31 << 32) for one in ones], dtype=torch.int32, device=words.device)
    return words + taken.repeat(words.shape[1] // len(ones))


def codes(words: Tensor, bits: int) -> Tensor:
    """The same as codes of `Grouped`: those of 2 and 3 bits in the middle of 4."""
    if bits in (4, 8):
        return _bytes(words)
    eights = _bytes(words).view(len(words), words.shape[1] * 4 // bits, bits).int()
    wide = eights[..., 0]
    for byte in range(1, bits):
        wide = wide | eights[..., byte] << 8 * byte
    mask, found = (1 << bits) - 1, torch.zeros_like(wide)
    for number in range(8):
        found |= (wide & mask << bits * number) << (4 - bits) * number
    return _bytes(found) + 0x11 * (8 - (1 << bits - 1))


def awq_codes(words: Tensor) -> Tensor:
    """Words `[in, out / 8]` in AWQ's order as codes of `Grouped`, uint8 `[out, in / 2]`; ValueError for odd inputs."""
    inputs, eights = words.shape
    if inputs % 2:
        raise ValueError(f"{inputs} inputs do not fill whole bytes")
    even, odd = words[0::2].t(), words[1::2].t()
    low = (even & 0x0F0F0F0F) | (odd & 0x0F0F0F0F) << 4
    high = (even >> 4 & 0x0F0F0F0F) | (odd & ~0x0F0F0F0F)
    found = words.new_empty(eights, 8, inputs // 2, dtype=torch.uint8)
    for first, own in enumerate((_bytes(low), _bytes(high))):
        for byte, output in enumerate(AWQ_ORDER[first::2]):
            found[:, output] = own.view(eights, inputs // 2, 4)[..., byte]
    return found.view(8 * eights, inputs // 2)


def awq_numbers(words: Tensor) -> Tensor:
    """Words `[rows, out / 8]` in AWQ's order as uint8 `[rows, out]`."""
    eights = numbers(words, 4).view(len(words), -1, 8)
    return eights[..., [AWQ_ORDER.index(output) for output in range(8)]].flatten(1)


def taken(x: Tensor, pieces: Sequence[Span] | None) -> Tensor:
    """Pieces of the first axis, one after the other; all of it by default."""
    return x if pieces is None else torch.cat([x[first:last] for first, last in pieces])


def groups_of(order: Tensor | None, size: int, count: int, pieces: Sequence[Span]) -> Tensor:
    """The group of each input of `pieces`, int64: as `order [all inputs]` says, or `size` that lie side by side.

    Some tools write an order of only 0 or -1 where they mean none. Raises ValueError for groups beyond `count`.
    """
    inputs = torch.cat([torch.arange(first, last) for first, last in pieces])
    if order is None or not len(order) or int(order.max()) <= 0:
        found = inputs // size if size > 0 else torch.zeros_like(inputs)
        if len(found) and int(found.max()) >= count:
            raise ValueError(f"{len(found)} inputs in groups of {size} are more than {count} groups")
        return found
    if not 0 <= int(order.min()) <= int(order.max()) < count:
        raise ValueError(f"g_idx names groups from {int(order.min())} to {int(order.max())}; there are {count}")
    if len(inputs) and int(inputs.max()) >= len(order):
        raise ValueError(f"g_idx has {len(order)} inputs, and the layer more")
    return order.long()[inputs.to(order.device)]


def grouped(
    kind: type[Grouped], codes: Tensor, scale: Tensor, offset: Tensor | None, groups: Tensor, keep_offset: bool
) -> Grouped:
    """The format, with only those groups that are used, as a rank need not see all of them.

    Args:
        scale, offset: `[out, groups]`.
        groups: `[in]`.
        keep_offset: even where it is 0 everywhere.
    """
    if not torch.isfinite(scale).all():
        raise ValueError("its scales are not all finite numbers")
    if offset is not None and not keep_offset and not offset.any():
        offset = None
    used, groups = torch.unique(groups.to(codes.device), return_inverse=True)
    if len(used) < scale.shape[1]:
        scale, offset = scale[:, used], None if offset is None else offset[:, used]
    offset = None if offset is None else offset.float().contiguous()
    return kind(codes, scale.float().contiguous(), offset, groups, None)


def _bytes(words: Tensor) -> Tensor:
    flat = words.contiguous().view(-1)  # as rows of one word may have any stride
    return flat.view(torch.uint8).view(len(words), 4 * words.shape[1])

"""4-bit codes that bitsandbytes has saved. Stdlib only until something is read."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from tgi_server.quantize.base import WHOLE, Axis, Cut, Stored

if TYPE_CHECKING:
    from torch import Tensor

    from tgi_server.kernels.formats import Format

_ANY = Axis(None)
STORAGE = {"uint8": ("U8", 1), "float16": ("F16", 2), "bfloat16": ("BF16", 2), "float32": ("F32", 4)}
"""As what bytes of two codes each are stored (for tools that shard floats only): its name in files, and its bytes."""


class State(NamedTuple):
    """What the package keeps of a layer beside tensors, as JSON in one of bytes."""

    shape: tuple[int, int]
    blocksize: int
    nested_blocksize: int
    nested_offset: float


@dataclass(frozen=True, slots=True)
class Rounded:
    """Blocks run over the whole matrix, output by output, so the tensors are not cut before they are read.

    Attributes:
        kind: nf4 or fp4.
        storage: the type that holds the codes, by torch's name; None for the usual one.
        byte_inputs: whether inputs are to be rounded to 8 bits, too.
    """

    kind: str
    storage: str | None
    byte_inputs: bool
    weight_bytes: ClassVar[float | None] = None

    def stored(self) -> Mapping[str, Stored]:
        """See `Reader`."""
        type, bytes = STORAGE[self.storage or "uint8"]
        table, nested = Stored((_ANY,), ("F32",), exact=True), Stored((_ANY,), ("F32",), exact=True, optional=True)
        return {
            "weight": Stored((Axis("all", 2 * bytes), _ANY), (type,), exact=True),
            "weight.absmax": Stored((_ANY,), ("U8", "F32"), exact=True),
            "weight.quant_map": table,
            f"weight.{self._state}": Stored((_ANY,), ("U8",)),
            "weight.nested_absmax": nested,
            "weight.nested_quant_map": nested,
        }

    @property
    def _state(self) -> str:
        return f"quant_state.bitsandbytes__{self.kind}"

    def read(self, tensors: Mapping[str, Tensor], cut: Cut = WHOLE) -> Format:
        """See `Reader`. Blocks that end within an output are parted where outputs end."""
        import torch

        from tgi_server.quantize.blockwise import saved
        from tgi_server.quantize.blockwise.layers import layer

        parts = {name.removeprefix("weight."): tensor for name, tensor in tensors.items()}
        state = _parsed(bytes(parts[self._state].tolist()), self._state)
        outputs, inputs = state.shape
        saved.check(parts, state)
        block = math.gcd(inputs, state.blocksize)
        scale = saved.scales(parts, state, block)
        codes = saved.codes(parts["weight"].flatten().view(torch.uint8), outputs, inputs, cut)
        return layer(codes, scale, block, inputs, parts["quant_map"], cut, self.byte_inputs)


def _parsed(text: bytes, name: str) -> State:
    """Raises ValueError for what is not what the package writes."""
    try:
        said: Any = json.loads(text)
        shape, blocks = tuple(said["shape"]), [said["blocksize"], said.get("nested_blocksize", 256)]
        if len(shape) != 2 or not all(isinstance(size, int) and size > 0 for size in (*shape, *blocks)):
            raise ValueError(f"shape {list(shape)}, blocks of {blocks}")
        return State((shape[0], shape[1]), blocks[0], blocks[1], float(said.get("nested_offset", 0.0)))
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise ValueError(f"its {name} cannot be read: {error}") from None

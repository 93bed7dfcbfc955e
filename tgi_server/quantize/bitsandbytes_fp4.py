"""4-bit weights that are small floating-point numbers: a sign, two bits of exponent, one of fraction.

NF4 suits most weights better.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tgi_server.quantize.blockwise.checkpoints import method_of
from tgi_server.quantize.blockwise.method import Blockwise
from tgi_server.quantize.settings import Settings

_SIZES = (0.0, 0.0625, 8.0, 12.0, 4.0, 6.0, 2.0, 3.0)
"""What the three bits below the sign stand for."""


@dataclass
class BitsandbytesFp4(Blockwise):
    """4-bit weights, small floating-point numbers in blocks."""

    kind: ClassVar[str] = "fp4"
    book: ClassVar[tuple[float, ...]] = tuple(sign * size / max(_SIZES) for sign in (1, -1) for size in _SIZES)

    @classmethod
    def reads(cls, settings: Settings) -> bool:
        """See `QuantizeMethod`."""
        return method_of(settings) == "bitsandbytes-fp4"

"""4-bit weights whose 16 numbers suit normally distributed weights (NF4, arXiv:2305.14314)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tgi_server.quantize.blockwise.checkpoints import method_of
from tgi_server.quantize.blockwise.method import Blockwise
from tgi_server.quantize.settings import Settings


@dataclass
class BitsandbytesNf4(Blockwise):
    """4-bit weights, numbers that suit a normal distribution (NF4) in blocks."""

    kind: ClassVar[str] = "nf4"
    book: ClassVar[tuple[float, ...]] = (
        -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
        -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634,
        0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
    )  # fmt: skip

    @classmethod
    def reads(cls, settings: Settings) -> bool:
        """See `QuantizeMethod`."""
        return method_of(settings) == "bitsandbytes-nf4"

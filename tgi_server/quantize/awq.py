"""Weights of 4 bits as AWQ (arXiv:2306.00978) leaves them, in AutoAWQ's layout."""

from __future__ import annotations

from dataclasses import dataclass

from tgi_server.quantize.packed.method import PackedMethod, spelled
from tgi_server.quantize.settings import Settings


@dataclass
class Awq(PackedMethod):
    """Checkpoints of `awq`; those of `gptq` and `compressed-tensors` too, as they say what they are."""

    spelling = "awq"

    @classmethod
    def reads(cls, settings: Settings) -> bool:
        """See `QuantizeMethod`."""
        return spelled(settings) == "awq"

"""Weights of 2, 3, 4 or 8 bits as GPTQ (arXiv:2210.17323) leaves them, in AutoGPTQ's or compressed-tensors' layout."""

from __future__ import annotations

from dataclasses import dataclass

from tgi_server.quantize.packed.method import PackedMethod, spelled
from tgi_server.quantize.settings import Settings


@dataclass
class Gptq(PackedMethod):
    """Checkpoints of `gptq` and `compressed-tensors`; those of `awq` too, as they say what they are."""

    spelling = "gptq"

    @classmethod
    def reads(cls, settings: Settings) -> bool:
        """See `QuantizeMethod`."""
        return spelled(settings) in ("gptq", "compressed-tensors")

"""The best attention that works here."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tgi_server.attention.flash import FlashAttention
from tgi_server.attention.native import NativeAttention
from tgi_server.attention.sdpa import SdpaAttention
from tgi_server.attention.triton import TritonAttention

if TYPE_CHECKING:
    import torch

    from tgi_server.attention.base import Attention

log = logging.getLogger(__name__)


@dataclass
class AutoAttention:
    """The first in order of preference that has no reason not to run."""

    def choose(self, device: torch.device, dtype: torch.dtype, head_dim: int) -> Attention:
        """The log says which it is and why not those before it. Plain torch, the last, runs everywhere."""
        candidates: list[Attention] = [FlashAttention(), TritonAttention(), NativeAttention(), SdpaAttention()]
        for candidate in candidates:
            reasons = candidate.unsupported(device, dtype, head_dim)
            if not reasons:
                break
            log.info("not %s: %s", type(candidate).__name__, "; ".join(reasons))
        log.info("attention: %s", type(candidate).__name__)
        return candidate

"""Which attention the operator wants. Imports no torch, so that the launcher can check it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Optional

from tgi_server.config.base import option


class Library(Enum):
    """Whose attention kernels there are; the names are those of the kernel table."""

    flash_attn = "flash_attn"
    triton = "triton"
    native = "native"
    torch = "torch"


@dataclass
class AttentionChoice:
    """The library whose attention kernels the shards use."""

    library: Optional[Library] = option(
        None, "Whose attention kernels run, which have to work here; the best that do when unset."
    )

    @property
    def wanted(self) -> str | None:
        """Its name in the kernel table; None for the best."""
        return None if self.library is None else self.library.value

"""What quantize=bitsandbytes-nf4 and -fp4 have in common: 4-bit codes of 16 numbers, in blocks with a scale each."""

from __future__ import annotations

import json
from dataclasses import MISSING, dataclass, fields
from typing import ClassVar

from tgi_server.config.base import option
from tgi_server.errors import ConfigError
from tgi_server.quantize.base import ACTIVATIONS, Activations, Reader
from tgi_server.quantize.blockwise.checkpoints import check_method
from tgi_server.quantize.blockwise.loading import Rounding
from tgi_server.quantize.blockwise.reading import STORAGE, Rounded
from tgi_server.quantize.settings import Settings

_STORED = ("block", "compress_statistics")
"""Fields that say how weights are rounded; those of a quantised checkpoint have been."""


@dataclass
class Blockwise:
    """QLoRA's blockwise quantisation (arXiv:2305.14314).

    Attributes:
        kind: as the package calls it.
        book: the number of each code.
    """

    block: int = option(
        64, "Weights of an output, side by side, that share a scale: a multiple of 32.", minimum=32, maximum=4096
    )
    compress_statistics: bool = option(
        True,
        "Give the scales the values that they have where bitsandbytes keeps them in 8 bits, as it does by default. "
        "false: exact ones, which here take no more memory.",
    )
    activations: Activations = option(Activations.exact, ACTIVATIONS)
    kind: ClassVar[str]
    book: ClassVar[tuple[float, ...]]

    def __post_init__(self) -> None:
        if self.block % 32:
            raise ValueError(f"block={self.block} is no multiple of 32")

    def reader(self, settings: Settings | None) -> Reader:
        """See `QuantizeMethod`."""
        byte_inputs = self.activations is Activations.int8
        if settings is None:
            return Rounding(self.book, self.block, self.compress_statistics, byte_inputs)
        check_method(f"bitsandbytes-{self.kind}", settings)
        self._check_unset(settings)
        storage = settings.entries.get("bnb_4bit_quant_storage")
        if storage is not None and storage not in list(STORAGE):  # of anything JSON may hold
            raise ConfigError(
                f"{settings.place}: bnb_4bit_quant_storage is {json.dumps(storage)}; served: {', '.join(STORAGE)}"
            )
        return Rounded(self.kind, storage, byte_inputs)

    def _check_unset(self, settings: Settings) -> None:
        usual = {field.name: field.default for field in fields(self) if field.default is not MISSING}
        for name in _STORED:
            if getattr(self, name) != usual[name]:
                raise ConfigError(
                    f"quantize.{name}={str(getattr(self, name)).lower()} is for weights that are quantised while they "
                    f"load; these are already ({settings.place}): leave it out"
                )

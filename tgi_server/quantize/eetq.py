"""8-bit weights, one scale an output, made from any float checkpoint while it loads."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from tgi_server.config.base import option
from tgi_server.quantize.base import ACTIVATIONS, WHOLE, Activations, Cut, Reader, Stored
from tgi_server.quantize.settings import Settings, refuse_quantised

if TYPE_CHECKING:
    from torch import Tensor

    from tgi_server.kernels.formats import Format


@dataclass
class Eetq:
    """Round to nearest on 255 steps from minus to plus the largest weight of each output.

    A whole number up to 127 is exact in every float type, so the products are those of the rounded weights; the
    kernels apply the scale to the sums, in float32.
    """

    activations: Activations = option(Activations.exact, ACTIVATIONS)
    weight_bytes: ClassVar[float | None] = 1.0

    def reader(self, settings: Settings | None) -> Reader:
        """Itself; see `QuantizeMethod`."""
        refuse_quantised("eetq", settings)
        return self

    @classmethod
    def reads(cls, settings: Settings) -> bool:
        """See `QuantizeMethod`: no checkpoint is stored so."""
        return False

    def stored(self) -> Mapping[str, Stored]:
        """The checkpoint's own `weight`, as it is there."""
        return {"weight": Stored(exact=True)}

    def read(self, tensors: Mapping[str, Tensor], cut: Cut = WHOLE) -> Format:
        """Whole numbers, and a float32 scale for each output."""
        from tgi_server.kernels.formats import Int8Outlier, rounded

        weight = rounded(tensors["weight"])
        exact = self.activations is Activations.exact
        return weight if exact else Int8Outlier(weight.steps, weight.scale, threshold=math.inf)

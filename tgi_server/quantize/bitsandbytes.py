"""LLM.int8 (arXiv:2208.07339): 8-bit weights, one scale an output, and 8-bit inputs but for the outliers among them.

Made from any float checkpoint while it loads, with the numbers of the package of that name, or read from a checkpoint
that was saved by it.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Optional

from tgi_server.config.base import option
from tgi_server.errors import ConfigError, ModelError
from tgi_server.quantize.base import FLOATS, IN, OUT, WHOLE, Cut, Reader, Stored
from tgi_server.quantize.blockwise.checkpoints import check_method, method_of
from tgi_server.quantize.settings import Settings

if TYPE_CHECKING:
    from torch import Tensor

    from tgi_server.kernels.formats import Format

USUAL_THRESHOLD = 6.0
ROWS = 0
"""`weight_format` of weights that lie as they are; the others were for one kind of GPU each."""


@dataclass
class Bitsandbytes:
    """LLM.int8: weights in 8 bits, and inputs but for large ones.

    What is large is judged in each row of inputs alone, whatever the rows beside it hold.
    """

    threshold: Optional[float] = option(
        None,
        "From which size on inputs are multiplied as they are, the others being rounded to 8 bits; 0 rounds all. What "
        "a quantised checkpoint says when unset, or 6.",
        minimum=0,
    )
    remark: ClassVar[str] = (
        "quantize=bitsandbytes is for those who need LLM.int8 itself: quantize=eetq takes the same checkpoints, rounds "
        "no inputs and is faster"
    )

    def reader(self, settings: Settings | None) -> Reader:
        """See `QuantizeMethod`."""
        if settings is None:
            return Rounding(_bound(USUAL_THRESHOLD if self.threshold is None else self.threshold))
        check_method("bitsandbytes", settings)
        if settings.entries.get("llm_int8_has_fp16_weight"):
            raise ModelError(
                f"{settings.place}: with llm_int8_has_fp16_weight the weights are not stored in 8 bits; without this "
                "entry of config.json they are served, with quantize=bitsandbytes if wanted"
            )
        return Rounded(_bound(_threshold(settings) if self.threshold is None else self.threshold))

    @classmethod
    def reads(cls, settings: Settings) -> bool:
        """See `QuantizeMethod`."""
        return method_of(settings) == "bitsandbytes"


@dataclass(frozen=True, slots=True)
class Rounding:
    """Makes 8-bit weights of float ones, whose float16 values are what the package rounds."""

    threshold: float
    weight_bytes: ClassVar[float | None] = 1.0

    def stored(self) -> Mapping[str, Stored]:
        """The checkpoint's own `weight`, as it is there."""
        return {"weight": Stored(exact=True)}

    def read(self, tensors: Mapping[str, Tensor], cut: Cut = WHOLE) -> Format:
        """See `Reader`. An output of zeros keeps a step above zero."""
        import torch

        from tgi_server.kernels.formats import Int8Outlier

        half = torch.finfo(torch.float16)
        weight = tensors["weight"].float().clamp(half.min, half.max).half().float()
        most = torch.maximum(weight.amax(dim=1), -weight.amin(dim=1)).clamp_min_(half.smallest_normal * half.eps)
        if not bool(most.isfinite().all()):
            raise ValueError("some of its weights are no numbers")
        steps = weight.mul_((127 / most).unsqueeze(1)).round_().to(torch.int8)
        return Int8Outlier(steps, most / 127, self.threshold)


@dataclass(frozen=True, slots=True)
class Rounded:
    """Reads what the package has saved: `weight` and, of each output, its largest weight, `SCB`."""

    threshold: float
    weight_bytes: ClassVar[float | None] = None

    def stored(self) -> Mapping[str, Stored]:
        """See `Reader`."""
        return {
            "weight": Stored((OUT, IN), ("I8",)),
            "SCB": Stored((OUT,), FLOATS, exact=True),
            "weight_format": Stored((), ("U8",), optional=True),
        }

    def read(self, tensors: Mapping[str, Tensor], cut: Cut = WHOLE) -> Format:
        """See `Reader`."""
        from tgi_server.kernels.formats import Int8Outlier

        if "weight_format" in tensors and (order := int(tensors["weight_format"])) != ROWS:
            raise ValueError(
                f"its weight_format is {order}, an order that only one kind of GPU reads; {ROWS} is served"
            )
        most = tensors["SCB"].float()
        if not bool(most.isfinite().all()):
            raise ValueError("its SCB has entries that are no numbers")
        return Int8Outlier(tensors["weight"], most / 127, self.threshold)


def _threshold(settings: Settings) -> float:
    said = settings.entries.get("llm_int8_threshold", USUAL_THRESHOLD)
    if isinstance(said, bool) or not isinstance(said, int | float) or not 0 <= said <= sys.float_info.max:
        raise ConfigError(f"{settings.place}: llm_int8_threshold is {said!r}, not a number from 0 on")
    return float(said)


def _bound(threshold: float) -> float:
    """The package takes 0 for no outliers at all."""
    return threshold or math.inf

"""The options of `job=quantize`, and what is wrong with them before any model is known. Stdlib only."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Any, ClassVar, Optional

from tgi_server.config.base import Options, option

WHOLE = -1
"""The size of a group that is all inputs of a layer."""
GROUP_SIZES = (32, 64, 128, WHOLE)
BITS = {"gptq": (2, 3, 4, 8), "awq": (4,)}

LEAST_TOKENS = 16
"""Of a piece of the calibration text."""


class Method(Enum):
    """How weights are rounded."""

    gptq = "gptq"
    awq = "awq"


@dataclass
class QuantizeOptions(Options):
    """What makes a checkpoint with few bits a weight of the model."""

    concerns: ClassVar[tuple[str, ...]] = ("job",)

    out: Optional[str] = option(
        None,
        "Directory for the checkpoint, which must not exist yet. Until it is whole, the work is kept in OUT.partial: "
        "the same command goes on from the last layer that was done.",
    )
    method: Method = option(
        Method.gptq,
        "gptq: column by column, what rounding changes is made up for by the columns still to come (arXiv:2210.17323). "
        "awq: channels that matter are scaled up first (arXiv:2306.00978), in the format that is called so.",
    )
    bits: int = option(4, "Bits of a weight: 4, and with gptq 2, 3 or 8 too.", minimum=2, maximum=8)
    group_size: int = option(
        128, "Inputs that share a scale: 32, 64, 128, or -1 for all inputs of a layer.", minimum=-1, maximum=128
    )
    act_order: Optional[bool] = option(
        None,
        "gptq: round the inputs that matter most first, and group them in this order (desc_act). Better, and slower in "
        "readers that gather inputs at every step. Unset: true.",
    )
    symmetric: Optional[bool] = option(
        None,
        "gptq: zero in the middle of the codes, as some readers' fastest kernels want it, instead of where a group's "
        "weights have it, which is better. Unset: false.",
    )
    damping: float = option(
        0.1, "Added to the diagonal of each layer's Hessian, as a part of its mean.", minimum=1e-6, maximum=1
    )
    calibration: Optional[str] = option(
        None,
        "Text (UTF-8) on which layers are observed: plain, or .jsonl with a text a line, the string or its \"text\". "
        "Unset: English prose that comes along.",
    )  # fmt: skip
    samples: int = option(64, "Pieces of that text that are run through the model.", minimum=1, maximum=100_000)
    sample_tokens: int = option(512, "Tokens in such a piece.", minimum=LEAST_TOKENS, maximum=131_072)

    @property
    def ordered(self) -> bool:
        """`act_order` as it is meant."""
        return self.method is Method.gptq and self.act_order is not False

    @property
    def centred(self) -> bool:
        """`symmetric` as it is meant."""
        return self.method is Method.gptq and bool(self.symmetric)


def problems(options: QuantizeOptions) -> Iterator[tuple[str, Any, str]]:
    """Of each option that cannot be had its name, its value, and why, with what works."""
    method, bits = options.method.value, BITS[options.method.value]
    if options.out is None:
        yield "out", None, "where should the checkpoint be written? job.out=DIRECTORY"
    if options.bits not in bits:
        yield "bits", options.bits, f"{method} works with {_listed(bits)} bits"
    if options.group_size not in GROUP_SIZES:
        yield "group_size", options.group_size, f"{_listed(GROUP_SIZES)} work"
    if options.method is not Method.gptq:
        for name in ("act_order", "symmetric"):
            if (value := getattr(options, name)) is not None:
                yield name, value, f"only method=gptq uses this, not {method}; leave it out"


def _listed(numbers: tuple[int, ...]) -> str:
    *most, last = map(str, numbers)
    return f"{', '.join(most)} or {last}" if most else last

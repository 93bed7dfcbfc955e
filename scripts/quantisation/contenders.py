"""What is measured: our methods, in the spellings of the command line, and llama.cpp's files of as many bits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

METHODS = Path(__file__).parents[2] / "conf" / "quantize"
BASELINE = "none"
BYTE_INPUTS = "+int8"
"""Behind a method's name: inputs of 8 bits, which are faster to multiply."""


@dataclass(frozen=True)
class Contender:
    """One way to keep the weights of the linear layers.

    Attributes:
        name: in JSON, on the command line and in tables.
        bits: of a weight.
        method: of ours, a file of conf/quantize; None for llama.cpp.
        made: whether it needs a checkpoint that `job=quantize` makes; the others take the float one.
        exact: whether inputs are multiplied in bfloat16.
        kind: of llama.cpp, the type of the file.
    """

    name: str
    bits: int
    method: str | None = None
    made: bool = False
    exact: bool = True
    kind: str | None = None

    @property
    def is_there(self) -> bool:
        """Whether this version has it; llama.cpp's are somewhere else."""
        return self.method is None or (METHODS / f"{self.method}.yaml").exists()

    @property
    def options(self) -> list[str]:
        """Of the server's command line; the model comes besides."""
        return [f"quantize={self.method}", *([] if self.exact else ["quantize.activations=int8"])]


def _ours(name: str, bits: int, made: bool = False, modes: bool = True) -> list[Contender]:
    exact = Contender(name, bits, name, made)
    return [exact, Contender(name + BYTE_INPUTS, bits, name, made, exact=False)] if modes else [exact]


OURS: Sequence[Contender] = [
    *_ours(BASELINE, 16, modes=False),
    *_ours("eetq", 8),
    *_ours("bitsandbytes", 8, modes=False),
    *_ours("bitsandbytes-nf4", 4),
    *_ours("bitsandbytes-fp4", 4),
    *_ours("awq", 4, made=True),
    *_ours("gptq", 4, made=True),
]
THEIRS: Sequence[Contender] = [
    Contender(f"llama.cpp {kind}", bits, kind=kind) for kind, bits in (("BF16", 16), ("Q8_0", 8), ("Q4_0", 4))
]
RIVALS = {each.bits: each.name for each in THEIRS}
"""Whom of llama.cpp's our methods are compared with: the file of as many bits."""


def chosen(names: Sequence[str] | None) -> list[Contender]:
    """Those with these names, or all, as far as this version has them; the baseline is always among them.

    Raises ValueError for a name that is none.
    """
    known = {each.name: each for each in [*OURS, *THEIRS]}
    if strange := set(names or ()) - set(known):
        raise ValueError(f"{', '.join(sorted(strange))}: expected some of {', '.join(known)}")
    wanted = {BASELINE, *(names or known)}
    return [each for each in known.values() if each.name in wanted and each.is_there]


def groups(contenders: Sequence[Contender]) -> list[list[Contender]]:
    """Those of 8 bits and those of 4, each with the baseline: for a model that not all can hold at the same time."""
    sets = [[each for each in contenders if each.name == BASELINE or each.bits in bits] for bits in ((16, 8), (4,))]
    return [each for each in sets if len(each) > 1]

"""Tells whether a text was watermarked, from its tokens alone: `python -m tgi_server.watermark --help`.

The test of arXiv:2301.10226: a text that knows nothing of the watermark has the part gamma of its tokens favoured
(green), with a known spread. Each pair of neighbours counts once (arXiv:2306.04634), as the same pair is green or not
wherever it stands, and a text that repeats itself would count its luck again and again.
"""

from __future__ import annotations

import argparse
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np
from tokenizers import Tokenizer

from tgi_server import greenlist
from tgi_server.errors import ModelError
from tgi_server.greenlist import GAMMA, Ids
from tgi_server.launcher import vocabulary

THRESHOLD = 4.0
"""The paper's: 3 texts of 100,000 without a watermark have a larger z."""
MARKED, UNMARKED, FAILED = 0, 1, 2
"""Exit statuses."""


@dataclass(frozen=True, slots=True)
class Detection:
    """What a text says about itself.

    Attributes:
        z: how many standard deviations more tokens are green than gamma of them; 0.0 where none counts.
        scored: tokens that count: those of a pair of neighbours not seen before, none of the two special.
        green: those of them that are green.
        p_value: how likely such a z or a larger one is without a watermark.
    """

    z: float
    scored: int
    green: int
    p_value: float


def detect(text: str, tokenizer: Tokenizer, gamma: float = GAMMA) -> Detection:
    """Test a text; `gamma` has to be that of the server that may have written it.

    Raises:
        ValueError: gamma is not between 0 and 1.
    """
    if not 0.0 < gamma < 1.0:
        raise ValueError(f"gamma has to be between 0 and 1, and is {gamma:g}")
    pairs = _pairs(text, tokenizer)
    scored, green = len(pairs), int(greenlist.green(pairs[:, 0], pairs[:, 1], gamma).sum())
    z = (green - gamma * scored) / math.sqrt(scored * gamma * (1 - gamma)) if scored else 0.0
    return Detection(z, scored, green, math.erfc(z / math.sqrt(2)) / 2 if scored else 1.0)


def _pairs(text: str, tokenizer: Tokenizer) -> Ids:
    """The distinct pairs of neighbours, int64 `[pairs, 2]`."""
    added = tokenizer.get_added_tokens_decoder().items()
    special = [id for id, token in added if token.special]
    ids = np.array(tokenizer.encode(text, add_special_tokens=False).ids, np.int64)
    pairs = np.stack([ids[:-1], ids[1:]], axis=1)
    return np.unique(pairs[~np.isin(pairs, special).any(axis=1)], axis=0)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line, where argparse writes the usage too."""
        self.exit(FAILED, f"Error: {message} (--help tells more)\n")


def main(arguments: list[str] | None = None) -> int:
    """The program; returns its exit status."""
    options = _parser().parse_args(arguments)
    try:
        detection = detect(_read(options.file), vocabulary.find(options.tokenizer), options.gamma)
    except (ModelError, ValueError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return FAILED
    print(_report(detection, options.gamma, options.threshold))
    return MARKED if detection.z > options.threshold else UNMARKED


def _parser() -> _Parser:
    parser = _Parser(
        prog="python -m tgi_server.watermark",
        description="Tell whether a text was generated with the parameter watermark. Neither the model is needed for "
        "that nor the prompt: the tokens that a watermark favours follow from the token before.",
        epilog="Exit status: 0 the text is watermarked, 1 it is not or is too short, 2 an error, told in one line.",
    )
    parser.add_argument("file", nargs="?", help="text in UTF-8; standard input where none is named")
    parser.add_argument(
        "--tokenizer", required=True,
        help="of the model that may have written the text: a tokenizer.json, a model's directory or .gguf file, "
        "package:NAME/FILE, or the id of a model in the hub cache; nothing is downloaded",
    )  # fmt: skip
    parser.add_argument(
        "--gamma", type=float, default=GAMMA,
        help="the server's watermark_gamma, the part of the tokens that is favoured (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--threshold", type=float, default=THRESHOLD,
        help="a text with a larger z-score counts as watermarked (default: %(default)s, which 3 texts of 100,000 "
        "without a watermark exceed)",
    )  # fmt: skip
    return parser


def _read(file: str | None) -> str:
    """The text; raises ValueError, with one line that says why there is none."""
    try:
        content = sys.stdin.buffer.read() if file is None else Path(file).read_bytes()
        return content.decode()
    except OSError as error:
        raise ValueError(f"{file}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{file or 'standard input'} is no UTF-8: byte {error.start} is {content[error.start]:#x}"
        ) from None


def _report(detection: Detection, gamma: float, threshold: float) -> str:
    part = f" ({detection.green / detection.scored:.1%}; {gamma:.1%} by chance)" if detection.scored else ""
    return (
        f"z-score: {detection.z:.2f}\n"
        f"tokens counted: {detection.scored}\n"
        f"green: {detection.green}{part}\n"
        f"p-value: {detection.p_value:.3g}\n"
        f"verdict: {_verdict(detection, gamma, threshold)}"
    )


def _verdict(detection: Detection, gamma: float, threshold: float) -> str:
    if detection.z > threshold:
        return "watermarked"
    largest = math.sqrt(detection.scored * (1 - gamma) / gamma)  # when all are green
    return "not watermarked" if largest > threshold else f"too short to tell: z is at most {largest:.2f}"


if __name__ == "__main__":
    sys.exit(main())

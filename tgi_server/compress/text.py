"""The calibration text, and the pieces of it that are run through the model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from tgi_server import tokenizer_file
from tgi_server.compress.options import LEAST_TOKENS
from tgi_server.errors import ModelError

SHIPPED = Path(__file__).with_name("calibration.txt")
"""The first five Adventures of Sherlock Holmes (1892, in the public domain), a paragraph a line."""


def read(path: Path) -> str:
    """The text of a file; raises ModelError for one that holds none."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ModelError(f"job.calibration={path}: it is not UTF-8 (byte {error.start})") from None
    except OSError as error:
        raise ModelError(f"job.calibration={path}: {error.strerror}") from None
    if path.suffix == ".jsonl":
        text = "\n\n".join(_texts(path, text))
    if not text.strip():
        raise ModelError(f"job.calibration={path}: it is empty")
    return text


def _texts(path: Path, lines: str) -> Iterator[str]:
    """Those of a file of JSON lines."""
    for number, line in enumerate(lines.split("\n"), 1):
        if not line.strip():
            continue
        try:
            content = json.loads(line)
        except (ValueError, RecursionError):
            raise ModelError(f"job.calibration={path}: line {number} is no JSON") from None
        text = content.get("text") if isinstance(content, dict) else content
        if not isinstance(text, str):
            raise ModelError(f'job.calibration={path}: line {number} is neither a string nor has it a "text"')
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise ModelError(f"job.calibration={path}: line {number} has half a surrogate pair, which is no character")
        yield text


def samples(path: Path, text: str, tokenizer: Path, count: int, length: int) -> NDArray[np.int64]:
    """Ids `[count, length]` of pieces that lie side by side or evenly apart, each begun as a text of the model is.

    Raises:
        ModelError: the text is too short for that; the line says what works.
    """
    core = tokenizer_file.read(tokenizer)
    begin = _begin(core)
    ids = core.encode(text, add_special_tokens=False).ids
    own = length - len(begin)
    most = len(ids) // own if own > 0 else 0
    if most < count:
        works = f"job.samples={most} works" if most else f"job.sample_tokens={len(ids)} works with job.samples=1"
        if not most and len(ids) < LEAST_TOKENS:
            works = f"a text of at least {LEAST_TOKENS} is needed"
        raise ModelError(
            f"job.samples={count}: {path.name} has {len(ids)} tokens, too few for so many pieces of {length}; {works}"
        )
    starts = [number * (len(ids) - own) // max(1, count - 1) for number in range(count)]
    return np.array([[*begin, *ids[start : start + own]] for start in starts], dtype=np.int64)


def _begin(core: Tokenizer) -> list[int]:
    """What a tokenizer puts before every text."""
    whole = core.encode("a")
    count = next((number for number, special in enumerate(whole.special_tokens_mask) if not special), 0)
    return list(whole.ids[:count])

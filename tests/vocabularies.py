"""Vocabularies of all kinds, made small in tests."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import sentencepiece

ROOT = Path(__file__).parents[1]
TEXTS = [
    "Hello world, it's 12345 o'clock.", "two  spaces, \ttabs\nand\n\nlines ",
    "naïve café — “quoted” ﬁ ½ Ⅳ", "日本語とไทย",
    "🙂👩‍👩‍👧 e\u0301 \u200b\u00a0", "def f(x):\n    return x ** 2  # done", "", "ЁЖИК и ёлка",
]  # fmt: skip


def lines() -> Iterator[str]:
    """A text that stays as it is: vocabularies depend on it."""
    yield from (ROOT / "LICENSE").read_text(encoding="utf-8").splitlines()


def train_pieces(path: Path, size: int = 500, **settings: Any) -> sentencepiece.SentencePieceProcessor:
    """Write a SentencePiece model of `lines`."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=lines(), model_writer=model, vocab_size=size, minloglevel=2, num_threads=1, **settings
    )
    path.write_bytes(model.getvalue())
    return sentencepiece.SentencePieceProcessor(model_file=str(path))


def write_words(directory: Path, tokenizer: dict[str, Any]) -> None:
    """vocab.json and merges.txt of a tokenizer.json."""
    model = tokenizer["model"]
    (directory / "vocab.json").write_text(json.dumps(model["vocab"]), encoding="utf-8")
    merges = [" ".join(pair) if isinstance(pair, list) else pair for pair in model["merges"]]
    (directory / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")


def write_ranks(path: Path, ranks: dict[bytes, int]) -> None:
    """A file of tiktoken."""
    path.write_text("".join(f"{base64.b64encode(token).decode()} {rank}\n" for token, rank in ranks.items()))

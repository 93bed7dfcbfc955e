"""Pieces of a calibration text; what cannot be one is refused in a line."""

from __future__ import annotations

from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from tgi_server.compress import text
from tgi_server.errors import ModelError

WORDS = 40


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
    core = Tokenizer(models.WordLevel({"<s>": 0, **{f"w{n}": n + 1 for n in range(WORDS)}}, "<s>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    core.post_processor = processors.TemplateProcessing("<s> $A", None, [("<s>", 0)])
    core.enable_truncation(3)
    core.save(str(tmp_path / "tokenizer.json"))
    return tmp_path / "tokenizer.json"


def test_pieces(tokenizer: Path) -> None:
    words = " ".join(f"w{n}" for n in range(WORDS))
    ids = text.samples(Path("x"), words, tokenizer, 3, 8)
    assert ids.tolist() == [[0, *range(1, 8)], [0, *range(17, 24)], [0, *range(34, 41)]]
    assert text.samples(Path("x"), words, tokenizer, 1, 41).shape == (1, 41)
    with pytest.raises(ModelError, match=r"job.samples=6: x has 40 tokens.*job.samples=5 works"):
        text.samples(Path("x"), words, tokenizer, 6, 8)
    with pytest.raises(ModelError, match="too few"):
        text.samples(Path("x"), words, tokenizer, 1, 64)
    with pytest.raises(ModelError, match=r"x has 3 tokens, .* of 16; a text of at least 16 is needed"):
        text.samples(Path("x"), "w0 w1 w2", tokenizer, 1, 16)


def test_what_comes_along() -> None:
    whole = text.read(text.SHIPPED)
    assert 200_000 < len(whole) < 250_000 and "utenberg" not in whole


@pytest.mark.parametrize(("name", "content", "words"), [
    ("a.txt", b"", "empty"), ("a.txt", b" \n\n ", "empty"), ("a.txt", b"ab\xff", "not UTF-8 .byte 2"),
    ("a.jsonl", b'"one"\n{"text": 3}\n', "line 2"), ("a.jsonl", b'{"text": "one"}\nno\n', "line 2 is no JSON"),
    ("a.jsonl", b"\n", "empty"), ("a.jsonl", b'"one"\n"two \\ud800"\n', "line 2 has half a surrogate pair"),
])  # fmt: skip
def test_no_texts(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ModelError, match=words):
        text.read(tmp_path / name)
    with pytest.raises(ModelError, match="No such file"):
        text.read(tmp_path / "other")


def test_json_lines(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('"one"\n\n{"text": "zwei \\u00e9", "more": 1}\n')
    assert text.read(tmp_path / "a.jsonl") == "one\n\nzwei é"

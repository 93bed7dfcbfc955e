"""Vocabularies of all kinds, made small in tests."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import sentencepiece
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

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


SPECIAL = ["<|end|>", "<|turn|>"]
"""Special tokens of the vocabularies below; their ids are told by `token_to_id`."""
ADDED = ["<tool>", "naïve", "ñ"]
"""Tokens that are added to them, and are text. Where a letter stands for a byte, those of the last two do as well."""
SENTENCES = [
    "the quick brown fox jumps over the lazy dog",
    "déguster un ortolan",
    "Paris is the capital of France",
] * 10
_UNKNOWN = "<unk>"


def byte_level() -> Tokenizer:
    """GPT-2's kind: a letter a byte, so that any text can be encoded and characters fall into several tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=340, initial_alphabet=alphabet, show_progress=False)
    return _trained(tokenizer, trainer)


def llama() -> Tokenizer:
    """Llama 2's kind: a space goes before every text, what no piece covers falls into bytes."""
    return _with_bytes(
        normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]), [decoders.Strip(" ", 1, 0)]
    )


def gemma() -> Tokenizer:
    """The same, with texts as they are."""
    return _with_bytes(normalizers.Replace(" ", "▁"), [])


def unigram() -> Tokenizer:
    """T5's kind: pieces only, a space goes before every text."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
    trainer = trainers.UnigramTrainer(
        vocab_size=200, unk_token=_UNKNOWN, special_tokens=[_UNKNOWN], initial_alphabet=list("日本語🙂👩é"),
        show_progress=False,
    )  # fmt: skip
    return _trained(tokenizer, trainer)


def word_pieces() -> Tokenizer:
    """BERT's kind: spaces between words are not kept, which of them there are is told by the pieces' beginnings."""
    tokenizer = Tokenizer(models.WordPiece(unk_token=_UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(
        vocab_size=200, special_tokens=[_UNKNOWN], initial_alphabet=list("日本語🙂👩é'.!"), show_progress=False
    )
    return _trained(tokenizer, trainer)


def suffixed() -> Tokenizer:
    """GPT's first kind: the end of a word is marked, its last piece is not followed by a space until another comes."""
    tokenizer = Tokenizer(models.BPE(unk_token=_UNKNOWN, end_of_word_suffix="</w>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.decoder = decoders.BPEDecoder()
    trainer = trainers.BpeTrainer(
        vocab_size=200, special_tokens=[_UNKNOWN], end_of_word_suffix="</w>", initial_alphabet=list("日本語🙂👩é'.!"),
        show_progress=False,
    )  # fmt: skip
    return _trained(tokenizer, trainer)


def whole_words() -> Tokenizer:
    """Without a decoder: words that are joined by spaces."""
    words = {
        word: id for id, word in enumerate([_UNKNOWN, *sorted({w for s in SENTENCES for w in s.split()}), "🙂", "日"])
    }
    tokenizer = Tokenizer(models.WordLevel(words, unk_token=_UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return _with_added(tokenizer)


KINDS: dict[str, Callable[[], Tokenizer]] = {
    maker.__name__: cache(maker)
    for maker in (byte_level, llama, gemma, unigram, word_pieces, suffixed, whole_words)
}  # fmt: skip
LOSSLESS = ("byte_level", "llama", "gemma")
"""Those that any text survives."""


def _with_bytes(normalizer: normalizers.Normalizer, last: list[decoders.Decoder]) -> Tokenizer:
    learner = Tokenizer(models.BPE())
    learner.normalizer = normalizer
    learner.train_from_iterator(SENTENCES, trainers.BpeTrainer(vocab_size=120, show_progress=False))
    learned = json.loads(learner.to_str())["model"]
    first = [_UNKNOWN, *(f"<0x{byte:02X}>" for byte in range(256))]
    vocabulary = {piece: id for id, piece in enumerate([*first, *sorted(learned["vocab"], key=learned["vocab"].get)])}
    merges = [(left, right) for left, right in learned["merges"]]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token=_UNKNOWN, fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizer
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *last])
    return _with_added(tokenizer)


def _trained(tokenizer: Tokenizer, trainer: trainers.Trainer) -> Tokenizer:
    tokenizer.train_from_iterator(SENTENCES, trainer)
    return _with_added(tokenizer)


def _with_added(tokenizer: Tokenizer) -> Tokenizer:
    tokenizer.add_special_tokens([AddedToken(SPECIAL[0], special=True)])
    tokenizer.add_special_tokens([AddedToken(SPECIAL[1], special=True, lstrip=True, rstrip=True)])
    tokenizer.add_tokens([AddedToken(ADDED[0], lstrip=True, rstrip=True, normalized=False)])
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in ADDED[1:]])
    return tokenizer

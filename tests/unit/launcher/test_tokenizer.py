"""A tokenizer.json made of other files: the ids are those of the library that the file is made for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiktoken
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer
from transformers import GPT2Tokenizer

from tests.vocabularies import TEXTS, lines, train_pieces, write_ranks, write_words
from tgi_server.errors import ModelError
from tgi_server.launcher.tokenizer import make

LLAMA: dict[str, Any] = {"normalization_rule_name": "identity", "remove_extra_whitespaces": False, "model_type": "bpe"}
GEMMA = {**LLAMA, "add_dummy_prefix": False, "pad_id": 0, "eos_id": 1, "bos_id": 2, "unk_id": 3}
T5 = {"model_type": "unigram", "pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}
OWN_CODE = {"tokenizer_class": "OwnTokenizer", "auto_map": {"AutoTokenizer": ["own.OwnTokenizer", None]}}
PIECES: dict[str, tuple[str, dict[str, Any], str, dict[str, Any]]] = {
    "llama": ("llama", {"tokenizer_class": "LlamaTokenizer"}, "tokenizer.model", {**LLAMA, "byte_fallback": True}),
    "llama without settings": ("llama", {}, "tokenizer.model", {**LLAMA, "byte_fallback": True}),
    "llama without bytes": ("llama", {"tokenizer_class": "LlamaTokenizer"}, "tokenizer.model", LLAMA),
    "mistral": ("mistral", {"tokenizer_class": "LlamaTokenizer"}, "tokenizer.model", {**LLAMA, "byte_fallback": True}),
    "gemma": ("gemma2", {"tokenizer_class": "GemmaTokenizer"}, "tokenizer.model", {**GEMMA, "byte_fallback": True}),
    "t5": ("t5", {"tokenizer_class": "T5Tokenizer"}, "spiece.model", T5),
    "unigram": ("llama", {}, "tokenizer.model", {"model_type": "unigram", "byte_fallback": True}),
    "code of its own": ("unheard-of", OWN_CODE, "tokenizer.model", {**LLAMA, "byte_fallback": True}),
}


def described(directory: Path, model_type: str, settings: dict[str, Any] | None = None) -> Path:
    (directory / "config.json").write_text(json.dumps({"model_type": model_type}))
    if settings:
        (directory / "tokenizer_config.json").write_text(json.dumps(settings))
    return directory


@pytest.mark.parametrize("name", PIECES)
def test_sentencepiece(name: str, tmp_path: Path) -> None:
    model_type, settings, file, training = PIECES[name]
    pieces = train_pieces(described(tmp_path, model_type, settings) / file, **training)
    made = Tokenizer.from_str(make(tmp_path, file))
    for text in [*TEXTS, "  leading", " "]:
        ids = made.encode(text, add_special_tokens=False).ids
        assert ids == pieces.encode(text), text
        if pieces.unk_id() not in ids:
            assert made.decode(ids) == pieces.decode(ids), text
    bos, eos = [pieces.bos_id()] if name != "t5" else [], [pieces.eos_id()] if name == "t5" else []
    assert made.encode(TEXTS[0]).ids == bos + pieces.encode(TEXTS[0]) + eos


def test_the_settings_beside_it_count(tmp_path: Path) -> None:
    special = {"lstrip": False, "rstrip": False, "normalized": False, "single_word": False, "special": True}
    settings = {
        "tokenizer_class": "LlamaTokenizer", "add_bos_token": False, "add_eos_token": True, "legacy": False,
        "added_tokens_decoder": {"500": {"content": "<|user|>", **special}},
    }  # fmt: skip
    pieces = train_pieces(described(tmp_path, "llama", settings) / "tokenizer.model", **LLAMA, byte_fallback=True)
    made = Tokenizer.from_str(make(tmp_path, "tokenizer.model"))
    assert made.encode("Hello").ids == [*pieces.encode("Hello"), pieces.eos_id()]
    both = made.encode("Hi<|user|>world", add_special_tokens=False)
    before, after = both.tokens[: both.ids.index(500)], both.tokens[both.ids.index(500) + 1 :]
    assert ("".join(before), "".join(after)) == ("▁Hi", "world"), "legacy=false: no space after a special token"


@pytest.fixture(scope="module")
def words() -> Tokenizer:
    """A byte-level tokenizer as GPT-2's."""
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = ByteLevel(add_prefix_space=False), ByteLevelDecoder()
    trainer = BpeTrainer(
        vocab_size=600, initial_alphabet=ByteLevel.alphabet(), special_tokens=["<|endoftext|>"], show_progress=False
    )
    tokenizer.train_from_iterator(lines(), trainer)
    return tokenizer


@pytest.mark.parametrize("model_type", ["gpt2", "llama", "unheard-of"])
def test_words_and_merges(model_type: str, words: Tokenizer, tmp_path: Path) -> None:
    write_words(described(tmp_path, model_type), json.loads(words.to_str()))
    made, theirs = Tokenizer.from_str(make(tmp_path, "vocab.json")), GPT2Tokenizer.from_pretrained(tmp_path)
    for text in TEXTS:
        assert made.encode(text).ids == words.encode(text).ids == theirs(text).input_ids
        assert made.decode(made.encode(text).ids) == text


PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@pytest.mark.parametrize("file", ["tokenizer.model", "own.tiktoken"])
def test_tiktoken(file: str, tmp_path: Path) -> None:
    ranks = {bytes([i]): i for i in range(256)}
    for word in (b"he", b"ll", b"hell", b"hello", b" w", b" wo", "é".encode(), b"12", "日".encode()[:2], "日".encode()):
        ranks[word] = len(ranks)
    special = {"lstrip": False, "rstrip": False, "normalized": False, "single_word": False, "special": True}
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<|begin|>", "eos_token": "<|end|>",
        "added_tokens_decoder": {
            str(len(ranks) + i): {"content": name, **special} for i, name in enumerate(("<|begin|>", "<|end|>"))
        },
    }  # fmt: skip
    write_ranks(described(tmp_path, "llama", settings) / file, ranks)
    added = {"<|begin|>": len(ranks), "<|end|>": len(ranks) + 1}
    theirs = tiktoken.Encoding("small", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens=added)
    made = Tokenizer.from_str(make(tmp_path, file))
    for text in [*TEXTS, "hello world", "<|begin|>hello<|end|>"]:
        ids = made.encode(text, add_special_tokens=False).ids
        assert ids == theirs.encode(text, allowed_special="all"), text
        assert made.decode(ids, skip_special_tokens=False) == text


DAMAGE = {
    "neither kind": ("tokenizer.model", b"\xff\xfe rubbish", r"none can be made of tokenizer\.model: \S"),
    "no merges": ("vocab.json", b'{"a": 0}', r"none can be made of vocab\.json: there is no merges\.txt beside it$"),
    "no JSON": ("vocab.json", b"{", r"none can be made of vocab\.json: \S"),
    "words without class": ("vocab.txt", b"[PAD]\n[UNK]\na\n", r"none can be made of vocab\.txt: \S"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_what_cannot_be_converted_is_one_line(damage: str, tmp_path: Path) -> None:
    name, content, message = DAMAGE[damage]
    (described(tmp_path, "llama") / name).write_bytes(content)
    if damage == "no JSON":
        (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    with pytest.raises(ModelError, match=message) as caught:
        make(tmp_path, name)
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)

"""Tokenizers inside GGUF files, against sentencepiece itself and the tokenizers that transformers makes."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from tokenizers import Tokenizer, models, pre_tokenizers
from tokenizers.trainers import BpeTrainer

from tests import gguf_files
from tgi_server.errors import ModelError
from tgi_server.launcher.gguf import tokenizer
from tgi_server.launcher.gguf.reader import GgufFile

CORPUS = [
    "the cat sat on the mat and the dog sat on the cat", "  two spaces, and   three; a tab\tand an end.",
    "In 2024 there were 1234567 things, m² and more: it's what they'd said.", "def f(x):\n    return x + 1\n",
    "ünïcode ist schön, naïve façade", "HTTPServer camelCase XMLHttpRequest snake_case",
] * 4  # fmt: skip
TEXTS = [*CORPUS[:6], "", " ", "cat", " cat", "   cat  ", "☃ 日本語 😀", "a\n\n\nb", "x<s>y", "In 42 m²  the\tend"]


@pytest.fixture(scope="module", params=[True, False], ids=["prefix", "no prefix"])
def pieces(request: pytest.FixtureRequest) -> tuple[sentencepiece.SentencePieceProcessor, bool]:
    """A SentencePiece model as Llama's (which begins a text with a space) or Gemma's."""
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS), model_writer=written, model_type="bpe", vocab_size=420, byte_fallback=True,
        normalization_rule_name="identity", remove_extra_whitespaces=False, add_dummy_prefix=request.param,
        split_digits=True, allow_whitespace_only_pieces=True, character_coverage=0.99, minloglevel=9,
        user_defined_symbols=["<turn>"], hard_vocab_limit=False,
    )  # fmt: skip
    return sentencepiece.SentencePieceProcessor(model_proto=written.getvalue()), request.param


def spm_file(path: Path, sp: Any, **changes: Any) -> GgufFile:
    """As llama.cpp's converter writes a SentencePiece model."""
    size = sp.get_piece_size()

    def kind(id: int) -> int:
        tests = (sp.is_unknown, sp.is_control, sp.is_unused, sp.is_byte)
        number = next((number for test, number in zip(tests, (2, 3, 5, 6), strict=True) if test(id)), 1)
        return 4 if sp.id_to_piece(id) == "<turn>" else number

    metadata = {
        "tokenizer.ggml.model": "llama", "tokenizer.ggml.pre": "default", "tokenizer.ggml.merges": None,
        "tokenizer.ggml.tokens": [sp.id_to_piece(id) for id in range(size)],
        "tokenizer.ggml.scores": [sp.get_score(id) for id in range(size)],
        "tokenizer.ggml.token_type": [kind(id) for id in range(size)],
        "tokenizer.ggml.bos_token_id": 1, "tokenizer.ggml.eos_token_id": 2, "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.padding_token_id": None, "tokenizer.ggml.add_bos_token": None,
        **{key.replace("__", "."): value for key, value in changes.items()},
    }  # fmt: skip
    return GgufFile(gguf_files.write(path / "tiny.gguf", {}, metadata))


def test_sentencepiece(tmp_path: Path, pieces: tuple[Any, bool]) -> None:
    sp, prefix = pieces
    file = spm_file(tmp_path, sp, tokenizer__ggml__add_space_prefix=prefix)
    tokenizer.check(file, sp.get_piece_size())
    built = tokenizer.build(file)
    for text in TEXTS:
        ids = built.encode(text).ids
        if text not in ("", "x<s>y"):  # sentencepiece itself has no special tokens in texts
            assert ids == [1, *sp.encode(text)]
            assert built.decode(ids, skip_special_tokens=True) == text
    turn = sp.piece_to_id("<turn>")
    assert turn in built.encode("a<turn>b").ids
    assert built.encode("x<s>y").ids.count(1) == 2


def test_tokens_around_a_text(tmp_path: Path, pieces: tuple[Any, bool]) -> None:
    sp, _ = pieces
    changes: dict[str, Any] = {"tokenizer__ggml__add_bos_token": False, "tokenizer__ggml__add_eos_token": True}
    ids = tokenizer.build(spm_file(tmp_path, sp, **changes)).encode("cat").ids
    assert (ids[0] == 1, ids[-1]) == (False, 2)


def test_ids_that_old_files_leave_out(tmp_path: Path, pieces: tuple[Any, bool]) -> None:
    sp, _ = pieces
    none = {f"tokenizer__ggml__{name}_token_id": None for name in ("bos", "eos", "unknown")}
    file = spm_file(tmp_path, sp, **none)
    assert tokenizer.special_ids(file) == {"bos_token_id": 1, "eos_token_id": 2}
    settings = tokenizer.settings(file, 9)
    assert (settings["bos_token"], settings["eos_token"], settings["unk_token"]) == ("<s>", "</s>", "<unk>")


@pytest.mark.parametrize(("changes", "message"), [
    ({"tokenizer.ggml.scores": [0.0]}, "420 tokens, but 1 scores"),
    ({"tokenizer.ggml.scores": None}, "tokenizer.ggml.scores is missing"),
    ({"tokenizer.ggml.model": "t5"}, r"the tokenizer model 't5' is not supported .*\(these are: gpt2, llama"),
    ({"tokenizer.ggml.model": "rwkv"}, "the tokenizer model 'rwkv' is not supported"),
    ({"tokenizer.ggml.token_type": [1]}, "420 tokens, but 1 token types"),
])  # fmt: skip
def test_what_is_refused(tmp_path: Path, pieces: tuple[Any, bool], changes: dict[str, Any], message: str) -> None:
    size = pieces[0].get_piece_size()
    file = spm_file(tmp_path, pieces[0], **{key.replace(".", "__"): value for key, value in changes.items()})
    with pytest.raises(ModelError, match=message.replace("420", str(size))):
        tokenizer.check(file, size)


def test_more_tokens_than_vectors(tmp_path: Path, pieces: tuple[Any, bool]) -> None:
    with pytest.raises(ModelError, match="tokens, but 7 token vectors"):
        tokenizer.check(spm_file(tmp_path, pieces[0]), 7)


# Byte-level: how each style cuts text

CUT = "It's 12345 m² HTTPServer camelCase!!  a\n\nb"
CUTS = {
    "gpt-2": ["It", "'s", "Ġ12345", "Ġm", "Â²", "ĠHTTPServer", "ĠcamelCase", "!!", "Ġ", "Ġa", "Ċ", "Ċ", "b"],
    "mpt": ["It", "'s", "Ġ12345", "Ġm", "Â²", "ĠHTTPServer", "ĠcamelCase", "!!", "Ġ", "Ġa", "Ċ", "Ċ", "b"],
    "starcoder": [
        "It", "'s", "Ġ", "1", "2", "3", "4", "5", "Ġm", "Â²", "ĠHTTPServer", "ĠcamelCase", "!!", "Ġ", "Ġa", "Ċ", "Ċ",
        "b",
    ],
    "falcon": [
        "It", "'", "s", "Ġ", "123", "45", "Ġm", "Â", "²", "ĠHTTPServer", "ĠcamelCase", "!!", "Ġ", "Ġa", "Ċ", "Ċ", "b",
    ],
    "bloom": ["It's", "Ġ12345", "ĠmÂ²", "ĠHTTPServer", "ĠcamelCase", "!!Ġ", "Ġa", "ĊĊ", "b"],
    "dbrx": [
        "It", "'s", "Ġ", "123", "45", "Ġm", "Â²", "ĠHTTPServer", "ĠcamelCase", "!!", "Ġ", "Ġa", "ĊĊ", "b",
    ],
    "tekken": [
        "It", "'s", "Ġ", "1", "2", "3", "4", "5", "Ġm", "Â²", "ĠHTTPServer", "Ġcamel", "Case", "!!", "Ġ", "Ġa", "ĊĊ",
        "b",
    ],
    "gpt-4o": [
        "It's", "Ġ", "123", "45", "Ġm", "Â²", "ĠHTTPServer", "Ġcamel", "Case", "!!", "Ġ", "Ġa", "ĊĊ", "b",
    ],
}  # fmt: skip


@pytest.mark.parametrize("pre", CUTS)
def test_how_text_is_cut(tmp_path: Path, pre: str) -> None:
    source = gguf_files.write(tmp_path / "tiny.gguf", {}, {"tokenizer.ggml.pre": pre})
    cut = tokenizer.build(GgufFile(source)).pre_tokenizer.pre_tokenize_str(
        "It's 12345 m² HTTPServer camelCase!!  a\n\nb"
    )
    assert [piece for piece, _ in cut] == CUTS[pre]


def test_merges_and_the_composed_form(tmp_path: Path) -> None:
    """A trained tokenizer, as the file of a model with it has it."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trained.train_from_iterator(CORPUS, BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False))
    vocabulary = sorted(trained.get_vocab().items(), key=lambda item: item[1])
    merges = [" ".join(pair) for pair in json.loads(trained.to_str())["model"]["merges"]]
    metadata = {
        "tokenizer.ggml.tokens": [token for token, _ in vocabulary], "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.token_type": [1] * len(vocabulary), "tokenizer.ggml.add_bos_token": False,
    }  # fmt: skip
    for pre, text in (("gpt-2", "n"), ("olmo", "ü")):
        source = gguf_files.write(tmp_path / "tiny.gguf", {}, {**metadata, "tokenizer.ggml.pre": pre})
        built = tokenizer.build(GgufFile(source))
        for line in TEXTS:
            assert built.encode(line).ids == trained.encode(line).ids
        assert built.encode("u\u0308").ids == trained.encode(text if pre == "olmo" else "u\u0308").ids


def test_several_chat_templates(tmp_path: Path) -> None:
    metadata = {"tokenizer.chat_templates": ["tool_use"], "tokenizer.chat_template.tool_use": "with tools"}
    settings = tokenizer.settings(GgufFile(gguf_files.write(tmp_path / "tiny.gguf", {}, metadata)), 9)
    assert settings["chat_template"] == [
        {"name": "tool_use", "template": "with tools"}, {"name": "default", "template": gguf_files.TEMPLATE},
    ]  # fmt: skip

"""The tokenizer inside a GGUF file as a `tokenizers` tokenizer, and its settings and chat template."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from tgi_server.errors import ModelError
from tgi_server.launcher.gguf.reader import GgufFile

_UNKNOWN, _CONTROL, _USER_DEFINED = 2, 3, 4
"""Token types of GGUF that stand for themselves in a text; the others come out of merges."""


@dataclass(frozen=True, slots=True)
class _Style:
    """What `tokenizer.ggml.pre` stands for: how text is cut before merging, and the settings that come with it."""

    pre_tokenizer: Callable[[], pre_tokenizers.PreTokenizer]
    adds_bos: bool = False
    ignores_merges: bool = False
    composes: bool = False


def _words() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)


def _single_digits() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), _words()])


def _pattern(digits: str) -> Callable[[], pre_tokenizers.PreTokenizer]:
    """Words with one leading non-letter, runs of `digits`, punctuation with its line ends, white space."""
    pattern = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|" + digits + r"| ?[^\s\p{L}\p{N}]+[\r\n]*"
        r"|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    return lambda: pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


_STYLES = {
    "gpt-2": _Style(_words),
    "smollm": _Style(_single_digits),
    "llama-bpe": _Style(_pattern(r"\p{N}{1,3}"), adds_bos=True, ignores_merges=True),
    "qwen2": _Style(_pattern(r"\p{N}"), composes=True),
}


def build(file: GgufFile) -> Tokenizer:
    """The tokenizer of the file.

    Raises:
        ModelError: its kind is not supported or its parts do not fit together.
    """
    style = _style(file)
    tokens = file.strings("tokenizer.ggml.tokens")
    parts = (merge.partition(" ") for merge in file.strings("tokenizer.ggml.merges"))
    merges = [(left, right) for left, _, right in parts]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    if len(vocabulary) != len(tokens):
        raise ModelError(f"{file.path}: the tokenizer's vocabulary holds tokens twice")
    try:
        model = models.BPE(vocab=vocabulary, merges=merges, ignore_merges=style.ignores_merges)
    except Exception as error:  # the library raises plain exceptions
        raise ModelError(f"{file.path}: the tokenizer's merges cannot be used: {error}") from None
    tokenizer = Tokenizer(model)
    if style.composes:
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = style.pre_tokenizer()
    tokenizer.decoder = decoders.ByteLevel()
    _add_tokens(tokenizer, file, tokens)
    _frame(tokenizer, file, tokens, style)
    return tokenizer


def _style(file: GgufFile) -> _Style:
    model = file.required("tokenizer.ggml.model", str)
    if model != "gpt2":
        raise ModelError(
            f"{file.path}: the tokenizer model {model!r} is not supported in GGUF files yet (gpt2 is); "
            "give a directory with tokenizer.json and safetensors"
        )
    pre = file.required("tokenizer.ggml.pre", str)
    if pre not in _STYLES:
        raise ModelError(f"{file.path}: tokenizer.ggml.pre is {pre!r}; supported are {', '.join(_STYLES)}")
    return _STYLES[pre]


def _add_tokens(tokenizer: Tokenizer, file: GgufFile, tokens: list[str]) -> None:
    types: list[int] = file.required("tokenizer.ggml.token_type", list)
    if len(types) != len(tokens):
        raise ModelError(f"{file.path}: {len(tokens)} tokens, but {len(types)} token types")
    for token, kind in zip(tokens, types, strict=True):
        if kind in (_UNKNOWN, _CONTROL):
            tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False)])
        elif kind == _USER_DEFINED:
            tokenizer.add_tokens([AddedToken(token, special=False, normalized=False)])


def _frame(tokenizer: Tokenizer, file: GgufFile, tokens: list[str], style: _Style) -> None:
    """Have the tokenizer put the tokens around a text that the model was trained with."""
    adds_bos = file.optional("tokenizer.ggml.add_bos_token", bool)
    before = ["bos"] if (style.adds_bos if adds_bos is None else adds_bos) else []
    after = ["eos"] if file.optional("tokenizer.ggml.add_eos_token", bool) else []
    ids = {name: _required_special(file, name, len(tokens)) for name in before + after}
    if ids:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=[*(tokens[ids[name]] for name in before), "$A", *(tokens[ids[name]] for name in after)],
            special_tokens=[(tokens[index], index) for index in ids.values()],
        )


def _required_special(file: GgufFile, name: str, size: int) -> int:
    index = _special(file, name, size)
    if index is None:
        raise ModelError(f"{file.path}: the metadata tokenizer.ggml.{name}_token_id is missing")
    return index


def _special(file: GgufFile, name: str, size: int) -> int | None:
    """The id of a special token; None where the model has none."""
    index = file.optional(f"tokenizer.ggml.{name}_token_id", int)
    if index is not None and not 0 <= index < size:
        raise ModelError(f"{file.path}: tokenizer.ggml.{name}_token_id is {index}, outside the vocabulary")
    return index


def settings(file: GgufFile, max_length: int) -> dict[str, Any]:
    """The content of tokenizer_config.json."""
    tokens = file.strings("tokenizer.ggml.tokens")
    names = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
    ids = {name: _special(file, key, len(tokens)) for name, key in names.items()}
    content: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "model_max_length": max_length,
    }
    content.update({f"{name}_token": tokens[index] for name, index in ids.items() if index is not None})
    template = file.optional("tokenizer.chat_template", str)
    return content if template is None else {**content, "chat_template": template}


def special_ids(file: GgufFile) -> dict[str, int | list[int]]:
    """The ids that generation starts, ends and pads with, as configuration files spell them."""
    size = len(file.strings("tokenizer.ggml.tokens"))
    found: dict[str, int | list[int]] = {}
    for name, key in (("bos", "bos"), ("pad", "padding")):
        if (index := _special(file, key, size)) is not None:
            found[f"{name}_token_id"] = index
    ends = [_special(file, key, size) for key in ("eos", "eot")]
    unique = list(dict.fromkeys(index for index in ends if index is not None))
    if unique:
        found["eos_token_id"] = unique[0] if len(unique) == 1 else unique
    return found

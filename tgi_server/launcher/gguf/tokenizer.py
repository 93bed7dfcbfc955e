"""The tokenizer inside a GGUF file as a `tokenizers` tokenizer, and its settings and chat template."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from gguf import Keys, TokenType
from tokenizers import AddedToken, Tokenizer, processors

from tgi_server.errors import ModelError
from tgi_server.launcher.gguf import byte_level, sentencepiece
from tgi_server.launcher.gguf.reader import GgufFile


@dataclass(frozen=True, slots=True)
class _Kind:
    """What `tokenizer.ggml.model` stands for.

    Attributes:
        check: raises ModelError for what is not supported.
        model: everything but the tokens that stand for themselves.
        adds_bos: whether a text begins with the token for that, where the file does not say.
        special: the ids of special tokens where the file does not say.
    """

    check: Callable[[GgufFile], None]
    model: Callable[[GgufFile], Tokenizer]
    adds_bos: Callable[[GgufFile], bool]
    special: dict[str, int]


_KINDS = {
    "gpt2": _Kind(byte_level.check, byte_level.model, byte_level.adds_bos, {}),
    "llama": _Kind(sentencepiece.check, sentencepiece.model, lambda file: True, {"unknown": 0, "bos": 1, "eos": 2}),
}


def check(file: GgufFile, vocabulary: int) -> None:
    """Raise ModelError for a tokenizer that is not supported, or that has more tokens than there are vectors."""
    _kind(file).check(file)
    tokens, types = file.strings(Keys.Tokenizer.LIST), file.required(Keys.Tokenizer.TOKEN_TYPE, list)
    if len(types) != len(tokens):
        raise ModelError(f"{file.path}: {len(tokens)} tokens, but {len(types)} token types")
    if len(tokens) > vocabulary:
        raise ModelError(f"{file.path}: {len(tokens)} tokens, but {vocabulary} token vectors")
    if len(set(tokens)) != len(tokens):
        raise ModelError(f"{file.path}: the tokenizer's vocabulary holds tokens twice")


def build(file: GgufFile) -> Tokenizer:
    """The tokenizer of a file that passed `check`.

    Raises:
        ModelError: its parts do not fit together.
    """
    try:
        tokenizer = _kind(file).model(file)
    except ModelError:
        raise
    except Exception as error:  # the library raises plain exceptions
        raise ModelError(f"{file.path}: the tokenizer's merges cannot be used: {error}") from None
    _add_tokens(tokenizer, file)
    _frame(tokenizer, file)
    return tokenizer


def _kind(file: GgufFile) -> _Kind:
    model = file.required(Keys.Tokenizer.MODEL, str)
    if model not in _KINDS:
        raise ModelError(
            f"{file.path}: the tokenizer model {model!r} is not supported in GGUF files (these are: "
            f"{', '.join(_KINDS)}); give a directory with tokenizer.json and safetensors"
        )
    return _KINDS[model]


def _add_tokens(tokenizer: Tokenizer, file: GgufFile) -> None:
    """Tokens that stand for themselves in a text; the others come out of merges."""
    special, others = [], []
    types = file.required(Keys.Tokenizer.TOKEN_TYPE, list)
    for token, kind in zip(file.strings(Keys.Tokenizer.LIST), types, strict=True):
        if kind in (TokenType.UNKNOWN, TokenType.CONTROL):
            special.append(AddedToken(token, special=True, normalized=False))
        elif kind == TokenType.USER_DEFINED:
            others.append(AddedToken(token, special=False, normalized=False))
    tokenizer.add_special_tokens(special)
    tokenizer.add_tokens(others)


def _frame(tokenizer: Tokenizer, file: GgufFile) -> None:
    """Have the tokenizer put the tokens around a text that the model was trained with."""
    adds_bos = file.optional(Keys.Tokenizer.ADD_BOS, bool)
    before = ["bos"] if (_kind(file).adds_bos(file) if adds_bos is None else adds_bos) else []
    after = ["eos"] if file.optional(Keys.Tokenizer.ADD_EOS, bool) else []
    tokens = file.strings(Keys.Tokenizer.LIST)
    ids = {name: _required_special(file, name) for name in before + after}
    if ids:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=[*(tokens[ids[name]] for name in before), "$A", *(tokens[ids[name]] for name in after)],
            special_tokens=[(tokens[index], index) for index in ids.values()],
        )


def _required_special(file: GgufFile, name: str) -> int:
    index = _special(file, name)
    if index is None:
        raise ModelError(f"{file.path}: the metadata tokenizer.ggml.{name}_token_id is missing")
    return index


def _special(file: GgufFile, name: str) -> int | None:
    """The id of a special token; None where the model has none."""
    size = len(file.strings(Keys.Tokenizer.LIST))
    index = file.optional(f"tokenizer.ggml.{name}_token_id", int)
    if index is None:
        index = _kind(file).special.get(name)
        return index if index is not None and index < size else None
    if not 0 <= index < size:
        raise ModelError(f"{file.path}: tokenizer.ggml.{name}_token_id is {index}, outside the vocabulary")
    return index


def settings(file: GgufFile, max_length: int) -> dict[str, Any]:
    """The content of tokenizer_config.json."""
    tokens = file.strings(Keys.Tokenizer.LIST)
    names = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
    ids = {name: _special(file, key) for name, key in names.items()}
    content: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "model_max_length": max_length,
    }
    content.update({f"{name}_token": tokens[index] for name, index in ids.items() if index is not None})
    template = _templates(file)
    return content if template is None else {**content, "chat_template": template}


def _templates(file: GgufFile) -> str | list[dict[str, str]] | None:
    """The chat template; a list of named ones where there are several."""
    template = file.optional(Keys.Tokenizer.CHAT_TEMPLATE, str)
    named = {}
    for name in file.optional(Keys.Tokenizer.CHAT_TEMPLATES, list) or []:
        named[str(name)] = file.required(Keys.Tokenizer.CHAT_TEMPLATE_N.format(name=name), str)
    if not named:
        return template
    named |= {} if template is None else {"default": template}
    return [{"name": name, "template": text} for name, text in named.items()]


def special_ids(file: GgufFile) -> dict[str, int | list[int]]:
    """The ids that generation starts, ends and pads with, as configuration files spell them."""
    found: dict[str, int | list[int]] = {}
    for name, key in (("bos", "bos"), ("pad", "padding")):
        if (index := _special(file, key)) is not None:
            found[f"{name}_token_id"] = index
    ends = [_special(file, key) for key in ("eos", "eot", "eom")]
    unique = list(dict.fromkeys(index for index in ends if index is not None))
    if unique:
        found["eos_token_id"] = unique[0] if len(unique) == 1 else unique
    return found

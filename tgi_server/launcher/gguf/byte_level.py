"""Byte-level BPE in GGUF: `tokenizer.ggml.model` gpt2, in the styles of `tokenizer.ggml.pre`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from gguf import Keys
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from tgi_server.errors import ModelError
from tgi_server.launcher.gguf.reader import GgufFile

PreTokenizer = pre_tokenizers.PreTokenizer


@dataclass(frozen=True, slots=True)
class _Style:
    """What `tokenizer.ggml.pre` stands for: how text is cut before merging, and the settings that come with it.

    Attributes:
        names: that mean it.
        cut: makes the pre-tokenizer.
        adds_bos: whether a text begins with the token for that, where the file does not say.
        ignores_merges: whether a word that is a token is taken as it is.
        composes: whether text is brought to the composed form of Unicode.
    """

    names: tuple[str, ...]
    cut: Callable[[], PreTokenizer]
    adds_bos: bool = False
    ignores_merges: bool = False
    composes: bool = False


def _words() -> PreTokenizer:
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)


def _single_digits() -> PreTokenizer:
    return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), _words()])


def _falcon() -> PreTokenizer:
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Punctuation(behavior="contiguous"),
            _words(),
            pre_tokenizers.Digits(individual_digits=False),
            pre_tokenizers.Split(Regex("[0-9][0-9][0-9]"), behavior="isolated"),
        ]
    )


def _pattern(pattern: str) -> Callable[[], PreTokenizer]:
    return lambda: pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_SPACE = r"|\s*[\r\n]+|\s+(?!\S)|\s+"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"


def _plain_words(digits: str) -> Callable[[], PreTokenizer]:
    """Words with one leading non-letter, runs of `digits`, punctuation with its line ends, white space."""
    words = r"|[^\r\n\p{L}\p{N}]?\p{L}+|"
    return _pattern(_CONTRACTIONS + words + digits + r"| ?[^\s\p{L}\p{N}]+[\r\n]*" + _SPACE)


def _cased_words(digits: str, contractions: str = "") -> Callable[[], PreTokenizer]:
    """The same, but a word ends before the capital that follows a small letter."""
    start = r"[^\r\n\p{L}\p{N}]?"
    words = f"{start}{_UPPER}*{_LOWER}+{contractions}|{start}{_UPPER}+{_LOWER}*{contractions}|"
    return _pattern(words + digits + r"| ?[^\s\p{L}\p{N}]+[\r\n/]*" + _SPACE)


_ALL = (
    _Style(("gpt-2", "phi-2"), _words),
    _Style(("olmo", "mpt"), _words, composes=True),
    _Style(("smollm", "starcoder", "refact"), _single_digits),
    _Style(("falcon",), _falcon),
    _Style(("bloom",), _pattern(" ?[^(\\s|[.,!?…。，、।۔،])]+")),  # noqa: RUF001
    _Style(("llama-bpe", "llama3", "llama-v3", "falcon3"), _plain_words(r"\p{N}{1,3}"), True, True),
    _Style(("smaug-bpe", "dbrx"), _plain_words(r"\p{N}{1,3}")),
    _Style(("qwen2", "deepseek-r1-qwen"), _plain_words(r"\p{N}"), composes=True),
    _Style(("tekken",), _cased_words(r"\p{N}"), ignores_merges=True),
    _Style(("gpt-4o",), _cased_words(r"\p{N}{1,3}", f"{_CONTRACTIONS}?")),
)
STYLES: Mapping[str, _Style] = {name: style for style in _ALL for name in style.names}


def check(file: GgufFile) -> None:
    """Raise ModelError for a style that is not known."""
    _style(file)
    file.strings(Keys.Tokenizer.MERGES)


def adds_bos(file: GgufFile) -> bool:
    """Whether a text begins with the token for that, where the file does not say."""
    return _style(file).adds_bos


def model(file: GgufFile) -> Tokenizer:
    """The tokenizer, without the tokens that stand for themselves."""
    style = _style(file)
    vocabulary = {token: index for index, token in enumerate(file.strings(Keys.Tokenizer.LIST))}
    parts = (merge.partition(" ") for merge in file.strings(Keys.Tokenizer.MERGES))
    merges = [(left, right) for left, _, right in parts]
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, ignore_merges=style.ignores_merges))
    if style.composes:
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = style.cut()
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _style(file: GgufFile) -> _Style:
    pre = file.required(Keys.Tokenizer.PRE, str)
    if pre not in STYLES:
        raise ModelError(f"{file.path}: tokenizer.ggml.pre is {pre!r}; supported are {', '.join(STYLES)}")
    return STYLES[pre]

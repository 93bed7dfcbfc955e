"""Whether texts can follow a grammar, told before a model begins to write one."""

from __future__ import annotations

import re

from llguidance import LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper

from tgi_server.types import GUIDE_LIMITS

LONGEST = 64 * 1024
"""Characters of a grammar."""
MOST_SAID = 200
"""Characters of a reason."""

_LIMITS = LLParserLimits(verbose_errors=False, **GUIDE_LIMITS)

_PLACE = re.compile(r'^(at \d+\(\d+\): |failed to compile JSON schema: |invalid regex ".*" \(in regex\): )*', re.S)
_EXCERPT = re.compile(r"^ +\d+ \| .*", re.DOTALL | re.MULTILINE)
_INTERNAL = re.compile(r"[:,]? *\((And|Or|Not|Regex|SearchRegex|Concat)\b.*")


class _Bytes:
    """A vocabulary of single bytes: what can be written in it does not depend on a model."""

    eos_token_id, bos_token_id, special_token_ids = 256, None, (256,)
    tokens = (*(bytes([byte]) for byte in range(256)), b"<end>")

    def __call__(self, text: str | bytes) -> list[int]:
        return list(text.encode() if isinstance(text, str) else text)


_BYTES = LLTokenizer(TokenizerWrapper(_Bytes()))


def failure(grammar: str) -> str | None:
    """Why `grammar` cannot be followed, None if it can: it is, by the bytes at the beginning that it leaves no choice
    of."""
    if len(grammar) > LONGEST:
        return f"longer than {LONGEST} characters as a grammar: {len(grammar)}"
    matcher = LLMatcher(_BYTES, grammar, log_level=0, limits=_LIMITS)
    if not matcher.is_error():
        matcher.compute_bitmask()
        matcher.consume_tokens(matcher.compute_ff_tokens())
    return _reason(matcher.get_error()) if matcher.is_error() else None


def mistake(grammar: str) -> str | None:
    """Why `grammar` is none, None if it is one: cheaper than `failure`, which finds more."""
    wrong, messages = LLMatcher.validate_grammar_with_warnings(grammar, limits=_LIMITS)
    return _reason(messages[0]) if wrong else None


def _reason(error: str) -> str:
    """What is wrong in few words, without llguidance's excerpts of the grammar."""
    told = _PLACE.sub("", _EXCERPT.sub("", error.removesuffix("<non-verbose/>"))).strip()
    lines = told.splitlines() or [""]
    line = next((line for line in lines if line.startswith("error: ")), lines[0]).removeprefix("error: ")
    if line.startswith("Unimplemented keys"):
        return "not supported"
    line = _INTERNAL.sub("", line)
    return line[:MOST_SAID] if " " in line else "no text matches"

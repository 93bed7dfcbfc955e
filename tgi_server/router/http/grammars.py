"""What a text has to look like, from what clients write to the grammars that the shards follow (llguidance's)."""

from __future__ import annotations

import json
from typing import Any

from llguidance import LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper
from msgspec import UNSET

from tgi_server.errors import ValidationError
from tgi_server.router.http.formats import Format, JsonFormat, JsonObjectFormat, JsonSchemaFormat, RegexFormat
from tgi_server.types import GUIDE_LIMITS

LONGEST = 64 * 1024
"""Characters of a grammar."""
MOST_MEMBERS = 1000
"""Members of an object or list in a schema: what they cost grows with their square."""

COMPACT = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
"""One way to write each JSON value: where white space may be written without end, some models do."""

_FOR_PEOPLE = frozenset(["title", "description", "examples", "default", "$comment", "deprecated"])
_VALUES = frozenset(["enum", "const"])
_SCHEMAS_BY_NAME = frozenset(["properties", "patternProperties", "$defs", "definitions", "dependentSchemas"])

MOST_SAID = 300
"""Characters of an error; some repeat the whole grammar."""

_LIMITS = LLParserLimits(verbose_errors=False, **GUIDE_LIMITS)


class _Bytes:
    """A vocabulary of single bytes: what can be written in it does not depend on a model."""

    eos_token_id, bos_token_id, special_token_ids = 256, None, (256,)
    tokens = (*(bytes([byte]) for byte in range(256)), b"<end>")

    def __call__(self, text: str | bytes) -> list[int]:
        return list(text.encode() if isinstance(text, str) else text)


_BYTES = LLTokenizer(TokenizerWrapper(_Bytes()))


def of_format(format: Format, param: str) -> str | None:
    """The grammar of a text of this format, None where any text will do; `param` is the field it came in.

    Raises:
        ValidationError: the format names no schema, or its schema or regular expression cannot be followed.
    """
    if isinstance(format, RegexFormat):
        return checked(LLMatcher.grammar_from_regex(format.value), param)
    schema = schema_of(format, param)
    return None if schema is None else checked(_of_schema(schema, param), param)


def schema_of(format: Format, param: str) -> Any:
    """The JSON schema of a format, an object; None where it has none.

    Raises:
        ValidationError: it should have one, or has several.
    """
    if isinstance(format, JsonObjectFormat):
        return _schema(_one(format.value, format.schema, param=param, default={"type": "object"}), param)
    if isinstance(format, JsonFormat):
        return _schema(format.value, param)
    if isinstance(format, JsonSchemaFormat):
        value = format.value
        if isinstance(value, dict) and isinstance(value.get("schema"), dict):
            value = value["schema"]  # TGI's clients name it here too
        named = UNSET if format.json_schema is UNSET else format.json_schema.schema
        return _schema(_one(named, value, format.schema, param=param), param)
    return None


def _one(*ways: Any, param: str, default: Any = None) -> Any:
    """The schema that came in one of several ways."""
    given = [way for way in ways if way is not UNSET]
    if len(given) > 1:
        raise ValidationError(f"`{param}` has more than one schema", param)
    return given[0] if given else default


def _schema(value: Any, param: str) -> Any:
    """`value` as a schema: what it is, or the JSON that it is the text of."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise ValidationError(f"the schema in `{param}` is not JSON: {error}", param) from None
    if not isinstance(value, dict | bool):
        raise ValidationError(f"`{param}` needs a JSON schema, which is an object", param)
    return _as_object(value)


def _as_object(schema: Any) -> dict[str, Any]:
    """A schema that is true or false, which stand for anything and for nothing, as an object."""
    spelled: dict[str, Any] = schema if isinstance(schema, dict) else {} if schema else {"not": {}}
    return spelled


def _of_schema(schema: Any, param: str) -> str:
    try:
        return LLMatcher.grammar_from_json_schema(schema_text(schema, param), overrides=COMPACT)  # type: ignore[arg-type]
    except ValueError as error:
        raise ValidationError(f"`{param}` cannot be followed: {error}", param) from None


def schema_text(schema: Any, param: str) -> str:
    """A schema as JSON text, without what is only meant for people.

    Raises:
        ValidationError: it is nested too deeply, or has too many members in one place.
    """
    try:
        return json.dumps(_bare(schema, param))
    except RecursionError:
        raise ValidationError(f"the schema in `{param}` is nested too deeply", param) from None


def _bare(value: Any, param: str) -> Any:
    if not isinstance(value, dict | list):
        return value
    if len(value) > MOST_MEMBERS:
        raise ValidationError(f"`{param}`: an object or list has more than {MOST_MEMBERS} members", param)
    if isinstance(value, list):
        return [_bare(item, param) for item in value]
    return {name: _member(name, member, param) for name, member in value.items() if name not in _FOR_PEOPLE}


def _member(name: str, value: Any, param: str) -> Any:
    if name in _VALUES:
        return value
    if name not in _SCHEMAS_BY_NAME or not isinstance(value, dict):
        return _bare(value, param)
    return dict(zip(value, _bare(list(value.values()), param), strict=True))


def checked(grammar: str, param: str) -> str:
    """`grammar`, if it can be followed: it is, by the bytes at the beginning that it leaves no choice of.

    Raises:
        ValidationError: it cannot, and why.
    """
    if len(grammar) > LONGEST:
        raise ValidationError(f"`{param}` is longer than {LONGEST} characters as a grammar: {len(grammar)}", param)
    matcher = LLMatcher(_BYTES, grammar, log_level=0, limits=_LIMITS)
    if not matcher.is_error():
        matcher.compute_bitmask()
        matcher.consume_tokens(matcher.compute_ff_tokens())
    if matcher.is_error():
        message = matcher.get_error().removesuffix("<non-verbose/>").strip()
        raise ValidationError(f"`{param}` cannot be followed: {message[:MOST_SAID]}", param)
    return grammar

"""What a text has to look like, from what clients write to the grammars that the shards follow (llguidance's)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from llguidance import LLMatcher
from msgspec import UNSET

from tgi_server.errors import ValidationError
from tgi_server.router.http.checks import failure
from tgi_server.router.http.formats import Format, JsonFormat, JsonObjectFormat, JsonSchemaFormat, RegexFormat
from tgi_server.router.http.schemas import COMPACT, LeftOut, Patience, grammar_of, obstacles, trouble

MOST_TOLD = 3
"""Parts of a schema that a message names."""


def of_format(format: Format, param: str) -> str | None:
    """The grammar of a text of this format, None where any text will do; `param` is the field it came in.

    Raises:
        ValidationError: the format names no schema, or its schema or regular expression cannot be followed.
    """
    if isinstance(format, RegexFormat):
        return checked(LLMatcher.grammar_from_regex(format.value), param)
    schema = schema_of(format, param)
    return None if schema is None else _of_schema(schema, param)


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


def _of_schema(schema: dict[str, Any], param: str) -> str:
    return grammar_of(strictly(schema, param), param, COMPACT)


def strictly(schema: dict[str, Any], param: str) -> dict[str, Any]:
    """A schema that is followed as a whole; formats that are not known say nothing that has to be.

    Raises:
        ValidationError: something else of it cannot be followed; the message says what.
    """
    if trouble(schema, COMPACT) is None:
        return schema
    left, found = obstacles(schema, Patience(), formats=False)
    if found:
        raise _unfollowed(param, told(found))
    return left


def told(left_out: Sequence[LeftOut]) -> str:
    """The first parts of a schema that cannot be followed, for a message."""
    return "; ".join([*map(str, left_out[:MOST_TOLD]), *["…"] * (len(left_out) > MOST_TOLD)])


def checked(grammar: str, param: str) -> str:
    """`grammar`, if it can be followed.

    Raises:
        ValidationError: it cannot, and why.
    """
    if reason := failure(grammar):
        raise _unfollowed(param, reason)
    return grammar


def _unfollowed(param: str, reason: str) -> ValidationError:
    fault = f"`{param}` cannot be followed"
    return ValidationError(f"{fault}: {reason}", param, logged=fault)

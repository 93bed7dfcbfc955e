"""What of a JSON schema can be followed, and how the rest is told."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tgi_server.errors import ValidationError
from tgi_server.router.http.formats import JsonFormat, RegexFormat
from tgi_server.router.http.grammars import of_format
from tgi_server.router.http.schemas import Patience, followable, trouble

TEXT, NUMBER = {"type": "string"}, {"type": "integer"}


def inside(schema: Any) -> dict[str, Any]:
    """A schema with another one somewhere within it."""
    return {"type": "object", "properties": {"a b": {"type": "array", "items": schema}}, "required": ["a b"]}


UNUSUAL: list[tuple[dict[str, Any], list[str]]] = [
    ({"type": "array", "uniqueItems": True, "maxItems": 3}, ["uniqueItems"]),
    ({"type": "object", "propertyNames": {"pattern": "^a"}, "properties": {"a": TEXT}}, ["propertyNames"]),
    ({"type": "string", "not": {"const": "a"}}, ["not"]),
    ({"type": "object", "if": {"required": ["a"]}, "then": {"required": ["b"]}, "else": {}}, ["if", "then", "else"]),
    ({"type": "object", "dependentRequired": {"a": ["b"]}}, ["dependentRequired"]),
    ({"type": "array", "contains": TEXT, "minItems": 1}, ["contains"]),
    ({"type": "string", "format": "path", "minLength": 1}, ["format"]),
    ({"type": "object", "properties": {"a": TEXT}, "required": None}, ["required"]),
    ({"type": "object", "required": ["a"], "properties": {"a": TEXT}, "unevaluatedProperties": False},
     ["unevaluatedProperties"]),
    ({"type": "string", "pattern": "(?=a)b"}, ["pattern"]),
    ({"type": "object", "patternProperties": {"(": TEXT}, "minProperties": 1}, ["patternProperties"]),
    ({"$ref": "https://example.org/schema.json"}, ["$ref"]),
    ({"$ref": "#/$defs/nothing"}, ["$ref"]),
    ({"type": "integer", "minimum": 3, "maximum": 2}, ["maximum"]),
    ({"type": "thing", "enum": ["a"]}, ["type"]),
    ({"allOf": [TEXT, {"minLength": 2, "type": "integer"}]}, ["type"]),
]  # fmt: skip


@pytest.mark.parametrize(("schema", "unfollowed"), UNUSUAL, ids=json.dumps)
def test_what_cannot_be_followed_is_left_out_and_nothing_else(schema: dict[str, Any], unfollowed: list[str]) -> None:
    for whole, place in ((schema, "$"), (inside(schema), '$.properties["a b"].items')):
        if whole is not schema and unfollowed[0] in ("maximum", "type"):
            continue  # there may be no such items
        assert trouble(whole) is not None
        left, left_out = followable(whole, Patience())
        assert trouble(left) is None and [part.path[-1] for part in left_out] == unfollowed
        assert all(str(part).startswith(f"`{part.path[-1]}` at `{place}") for part in left_out)
        without = json.loads(json.dumps(whole))
        for part in left_out:
            node = without
            for step in part.path[:-1]:
                node = node[int(step)] if isinstance(node, list) else node[step]
            del node[part.path[-1]]
        assert left == without


@pytest.mark.parametrize(("schema", "unfollowed"), UNUSUAL, ids=json.dumps)
def test_a_format_is_followed_as_a_whole_or_refused(schema: dict[str, Any], unfollowed: list[str]) -> None:
    if unfollowed == ["format"]:
        assert of_format(JsonFormat(inside(schema)), "x") == of_format(JsonFormat(inside(TEXT | {"minLength": 1})), "x")
        return
    with pytest.raises(ValidationError) as caught:
        of_format(JsonFormat(schema), "response_format")
    message = str(caught.value)
    assert message.startswith(f"`response_format` cannot be followed: `{unfollowed[0]}` at `$")
    assert "%json" not in message and "start:" not in message and "x-guidance" not in message and "\n" not in message
    assert caught.value.param == "response_format"


def test_what_asks_for_nothing_is_no_reason_to_refuse() -> None:
    schema = {"type": "array", "items": TEXT, "uniqueItems": False, "unevaluatedItems": True}
    assert of_format(JsonFormat(schema), "x") == of_format(JsonFormat({"type": "array", "items": TEXT}), "x")


def test_alternatives_that_overlap() -> None:
    apart = [{"type": "object", "properties": {"kind": {"const": kind}}, "required": ["kind"]} for kind in "ab"]
    assert of_format(JsonFormat({"oneOf": apart}), "x")
    schema = inside({"oneOf": [TEXT, {"type": "string", "minLength": 2}]})
    left, left_out = followable(schema, Patience())
    assert (left, left_out) == (schema, [])
    with pytest.raises(ValidationError, match=r"`oneOf` at `\$.properties\[\"a b\"\].items`: .*overlap"):
        of_format(JsonFormat(schema), "response_format")


def test_messages_name_the_first_parts() -> None:
    schema = {"type": "object", "properties": {f"p{i}": {"not": {}} for i in range(9)}}
    with pytest.raises(ValidationError, match=r"`not` at `\$.properties.p0`: not supported; .*p2`: not supported; …$"):
        of_format(JsonFormat(schema), "response_format")


@pytest.mark.parametrize(
    ("pattern", "reason"), [("(", "unclosed group"), ("(?=a)b", "look-around"), (r"\bfoo", "lookarounds")]
)
def test_a_pattern_that_cannot_be_followed(pattern: str, reason: str) -> None:
    with pytest.raises(ValidationError, match=f"^`grammar` cannot be followed: .*{reason}") as caught:
        of_format(RegexFormat(pattern), "grammar")
    assert "start:" not in str(caught.value) and "\n" not in str(caught.value)


def nested(depth: int) -> Any:
    return {"type": "object", "properties": {"a": nested(depth - 1)}} if depth else TEXT


HOSTILE: dict[str, dict[str, Any]] = {
    "deep": nested(200),
    "wide": {"type": "object", "properties": {f"p{i}": TEXT for i in range(1500)}},
    "circle": {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"},
    "endless": {"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]},
    "dangling": {"type": "object", "properties": {f"p{i}": {"$ref": f"#/$defs/{i}"} for i in range(300)}},
    "conflicts": {
        "type": "object",
        "properties": {f"p{i}": {"allOf": [TEXT, NUMBER]} for i in range(60)},
        "required": [f"p{i}" for i in range(60)],
    },
    "long": {"type": "object", "properties": {f"p{i}": {"enum": ["x" * 2000]} for i in range(40)}},
    "unknown": {"type": "object"} | {f"keyword{i}": i for i in range(20000)},
    "patterns": {
        "type": "object",
        "properties": {"a": {"allOf": [{"type": "string", "pattern": f"^(a|b)*a(a|b){{{i}}}$"} for i in range(20)]}},
        "required": ["a"],
    },
    "far": {"type": "object", "anyOf": [{}], "properties": {"a": {"$ref": "#/anyOf/" + "1" * 5000}}},
    "unhashable": {"type": ["object", {}], "required": [["a"], {}], "enum": {}, "$ref": ["#"], "x-guidance": 3},
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_schemas_are_answered_in_time(name: str) -> None:
    start = time.thread_time()
    left, left_out = followable(HOSTILE[name], Patience())
    assert left_out and trouble(left) is None
    assert time.thread_time() - start < 5
    with pytest.raises(ValidationError, match="cannot be followed"):
        of_format(JsonFormat(HOSTILE[name]), "response_format")


def test_patterns_of_different_places_do_not_add_up() -> None:
    mixins = [{"properties": {f"p{i}": {"type": "string", "pattern": "^[a-f]{4}$"}}} for i in range(20)]
    schema = {"type": "object", "allOf": mixins, "required": ["p3"]}
    assert trouble(schema) is None


def test_without_patience_only_the_type_is_left() -> None:
    left, left_out = followable(HOSTILE["conflicts"], Patience(0))
    assert left == {"type": "object"} and str(left_out[-1]).startswith("the schema: too much")


VALUES = (
    st.none()
    | st.booleans()
    | st.integers(-2, 5)
    | st.sampled_from(["a", "string", "date", "^a$", "(", "#", "#/$defs/a"])
)
KEYWORDS = [
    "type", "properties", "required", "items", "prefixItems", "allOf", "anyOf", "oneOf", "not", "if", "enum", "const",
    "minLength", "maxLength", "minimum", "maximum", "minItems", "uniqueItems", "pattern", "format", "$ref", "$defs",
    "additionalProperties", "patternProperties", "title", "x-other",
]  # fmt: skip
SCHEMAS = st.recursive(
    VALUES,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*KEYWORDS, "a", "b"]), inner, max_size=4)
    ),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(parts=st.dictionaries(st.sampled_from(KEYWORDS), SCHEMAS, max_size=5))
def test_something_of_any_schema_can_be_followed(parts: dict[str, Any]) -> None:
    left, left_out = followable(parts, Patience())
    assert trouble(left) is None and left.keys() <= parts.keys()
    assert left_out or trouble(parts) is None

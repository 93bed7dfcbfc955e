"""The schemas of the document: those of the types that read requests and type answers, in OpenAPI 3.0's dialect.

msgspec writes JSON Schema of 2020. OpenAPI 3.0 knows no type `null`, and nothing beside a `$ref` counts in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_origin, get_type_hints, is_typeddict

import msgspec

from tgi_server.router.http.openapi.words import field_docs, named_types

Schema = dict[str, Any]

_REF = "#/components/schemas/{name}"
_SAYS_NOTHING: list[tuple[str, Any]] = [("required", []), ("default", None)]
"""OpenAPI forbids the first. What the second stands for is said in words, as it is a value only for the rules."""

_NULL: Schema = {"type": "string", "nullable": True, "enum": [None]}


def components(types: Mapping[str, Any], constants: Mapping[str, Mapping[str, str]]) -> dict[str, Schema]:
    """The schemas of `types` by their names, and of what those are made of by the names of the types.

    Args:
        constants: values of text fields that are always the same, by type and field.
    """
    refs, found = msgspec.json.schema_components(types.values(), ref_template=_REF)
    names = {_name(ref["$ref"]): name for ref, name in zip(refs, types, strict=True)}
    schemas = {names.get(name, name): _converted(schema) for name, schema in found.items()}
    kinds = {**named_types(types.values()), **types}
    for name in schemas.keys() & kinds.keys():
        _order(kinds[name], schemas[name])
        properties = schemas[name]["properties"]
        for field, text in field_docs(kinds[name]).items():
            properties[field] = _described(properties[field], text)
    for name, fields in constants.items():
        for field, value in fields.items():
            schemas[name]["properties"][field]["enum"] = [value]
    return schemas


def ref(name: str) -> Schema:
    """The schema called `name`, wherever one may stand."""
    return {"$ref": _REF.format(name=name)}


def _name(address: str) -> str:
    return address.rpartition("/")[2]


def _order(kind: Any, schema: Schema) -> None:
    """The fields of a dictionary as they are sent; msgspec has sorted them by name."""
    kind = get_origin(kind) or kind
    if is_typeddict(kind):
        schema["properties"] = {field: schema["properties"][field] for field in get_type_hints(kind)}


def _described(schema: Schema, text: str) -> Schema:
    own = {"allOf": [schema]} if "$ref" in schema else schema
    return {**own, "description": text}


def _converted(schema: Schema) -> Schema:
    """A schema and those inside of it."""
    if schema == {"type": "null"}:
        return _NULL
    new = {key: value for key, value in schema.items() if (key, value) not in _SAYS_NOTHING and key != "title"}
    if "properties" in new:
        new["properties"] = {name: _converted(each) for name, each in new["properties"].items()}
    for inner in ("items", "additionalProperties"):
        if isinstance(new.get(inner), dict):
            new[inner] = _converted(new[inner])
    if new.get("type") == "array":
        new.setdefault("items", {})
    if "enum" in new:
        new["type"] = "string"
    return _union(new) if "anyOf" in new else new


def _union(schema: Schema) -> Schema:
    """`anyOf` without `null`: one of the others is nullable instead, or else the null value joins them."""
    options = schema["anyOf"]
    others = [_converted(option) for option in options if option != {"type": "null"}]
    if len(others) < len(options):
        typed = next((index for index, other in enumerate(others) if "type" in other), None)
        if typed is None:
            others.append(_NULL)
        else:
            others[typed] = _nullable(others[typed])
    rest = {key: value for key, value in schema.items() if key != "anyOf"}
    return {**others[0], **rest} if len(others) == 1 else {"anyOf": others, **rest}


def _nullable(schema: Schema) -> Schema:
    values = {"enum": [*schema["enum"], None]} if "enum" in schema else {}
    return {**schema, **values, "nullable": True}

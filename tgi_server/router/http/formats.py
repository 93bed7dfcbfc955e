"""What a generated text has to look like, as clients of the native and the OpenAI API write it."""

from __future__ import annotations

from typing import Any

from msgspec import UNSET, Struct, UnsetType


class TextFormat(Struct, frozen=True, tag_field="type", tag="text"):
    """Any text."""


class JsonObjectFormat(Struct, frozen=True, tag_field="type", tag="json_object"):
    """A JSON object, which follows a JSON schema if there is one: `value` as TGI has it, or `schema` as others do."""

    value: Any = UNSET
    """A JSON schema, or its text. Any JSON object if neither is given."""
    schema: Any = UNSET
    """The same, as clients of llama.cpp, Together and others give it. Not beside `value`."""


class JsonFormat(Struct, frozen=True, tag_field="type", tag="json"):
    """JSON that follows the JSON schema `value`, an object or its text."""

    value: Any
    """A JSON schema, or its text."""


class NamedSchema(Struct, frozen=True):
    """A JSON schema as OpenAI has it. It is always followed strictly."""

    schema: Any = UNSET
    """A JSON schema."""
    name: str = ""
    """Without effect."""
    description: str | None = None
    """Without effect."""
    strict: bool | None = None
    """Without effect: the schema is always followed."""


class JsonSchemaFormat(Struct, frozen=True, tag_field="type", tag="json_schema"):
    """JSON that follows a JSON schema: `json_schema` as OpenAI has it, `value` as TGI has it, or `schema`."""

    json_schema: NamedSchema | UnsetType = UNSET
    """OpenAI's way to give a schema."""
    value: Any = UNSET
    """TGI's way to give a schema: the schema or its text, or an object with a name and the `schema`."""
    schema: Any = UNSET
    """The schema or its text, as clients of llama.cpp, Together and others give it."""


class RegexFormat(Struct, frozen=True, tag_field="type", tag="regex"):
    """A text that the regular expression `value` matches as a whole."""

    value: str
    """A regular expression that the whole text matches."""


Format = TextFormat | JsonObjectFormat | JsonFormat | JsonSchemaFormat | RegexFormat
"""What a generated text has to look like."""

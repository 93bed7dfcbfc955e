"""Bodies made from the schemas of an OpenAPI document: plausible ones, and such that hardly anybody would send.

They are JSON text from the beginning, as much of what is sent is none.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from typing import Any

from tests.fuzz import values

Schema = Mapping[str, Any]

DEEPEST = 6
"""Levels of a plausible value; schemas that refer to themselves end there."""


class Bodies:
    """What may be sent to the operations of `document`, decided by `chance`."""

    def __init__(self, document: Mapping[str, Any], chance: random.Random) -> None:
        self._schemas = document["components"]["schemas"]
        self._chance = chance

    def body(self, operation: Mapping[str, Any]) -> bytes:
        """A body for an operation that takes one."""
        content = operation["requestBody"]["content"]["application/json"]
        fields = {name: json.dumps(value) for name, value in content.get("example", {}).items()}
        fields |= self._some(self._resolved(content["schema"]))
        self._reshape(fields)
        text = _object(fields)
        if self._chance.random() < 0.1:
            text = self._spoilt(text)
        data = text.encode("utf-8", "surrogatepass")
        return self._flipped(data) if self._chance.random() < 0.07 else data

    def hostile(self) -> str:
        """Any value at all."""
        kinds = [values.NUMBERS, values.STRINGS, values.GUIDES, values.OTHERS, values.DEEP, values.BROKEN]
        (kind,) = self._chance.choices(kinds, [30, 30, 15, 20, 2, 3])
        return self._chance.choice(kind)

    def value(self, schema: Schema, depth: int = 0, name: str = "") -> str:
        """What `schema` allows, for the most part."""
        chance = self._chance
        if chance.random() < 0.06:
            return self.hostile()
        schema = self._resolved(schema)
        if "enum" in schema:
            return json.dumps(chance.choice(schema["enum"]))
        if schema.get("nullable") and chance.random() < 0.1:
            return "null"
        kind = schema.get("type")
        if kind == "object":
            return self._object(schema, depth)
        if kind == "array":
            count = 0 if depth > DEEPEST else chance.choice([0, 1, 1, 2, 3])
            return "[" + ",".join(self.value(schema.get("items", {}), depth + 1) for _ in range(count)) + "]"
        return self._plain(kind, name)

    def _plain(self, kind: str | None, name: str) -> str:
        chance = self._chance
        if kind == "integer" and name.startswith("max_") and name.endswith("tokens"):
            return str(chance.choice([1, 2, 3, 5, 8]))  # long answers find nothing that short ones do not
        if kind in ("integer", "number"):
            return str(chance.choice([0, 1, 2, 3, 5, 7, 40] if kind == "integer" else [0, 0.1, 0.5, 0.9, 1, 1.2, 2]))
        if kind == "boolean":
            return chance.choice(["true", "false"])
        return chance.choice(values.STRINGS if kind == "string" else values.GUIDES + values.OTHERS)

    def _object(self, schema: Schema, depth: int) -> str:
        if not schema.get("properties"):
            return self._chance.choice(values.GUIDES + values.OTHERS)
        return _object(self._some(schema, depth + 1))

    def _some(self, schema: Schema, depth: int = 0) -> dict[str, str]:
        """Some of the fields of an object, those that are required for the most part."""
        required, chance = schema.get("required", ()), self._chance
        wanted = 0.0 if depth > DEEPEST else min(0.3, 2.5 / max(1, len(schema.get("properties", ()))))
        likely = {name: 0.97 if depth and name in required else wanted for name in schema.get("properties", {})}
        return {
            name: self.value(schema["properties"][name], depth, name)
            for name, part in likely.items()
            if chance.random() < part
        }

    def _resolved(self, schema: Schema) -> Schema:
        while True:
            if "$ref" in schema:
                schema = self._schemas[schema["$ref"].rpartition("/")[2]]
            elif choices := schema.get("allOf") or schema.get("anyOf") or schema.get("oneOf"):
                schema = self._chance.choice(choices)
            else:
                return schema

    def _reshape(self, fields: dict[str, str]) -> None:
        """Fields that come, go, or are another's."""
        chance = self._chance
        if fields and chance.random() < 0.08:
            del fields[chance.choice(list(fields))]
        if len(fields) > 1 and chance.random() < 0.05:
            one, other = chance.sample(list(fields), 2)
            fields[one], fields[other] = fields[other], fields[one]
        if chance.random() < 0.08:
            fields[chance.choice(values.TEXTS)[:200]] = self.hostile()

    def _spoilt(self, text: str) -> str:
        chance, middle = self._chance, self._chance.randrange(len(text) + 1)
        twice = f"{{{json.dumps(chance.choice(['inputs', 'messages', 'prompt', 'input', 'stream']))}:{self.hostile()},"
        return chance.choice([
            text[:middle], text + text, text + " x", f"[{text}]", self.hostile(), " " * 3000 + text, f"\ufeff{text}",
            twice + text[1:], text[:middle] + chance.choice(values.BROKEN) + text[middle:], text.replace(":", "::", 1),
            json.dumps(text), text.replace('"', "'"), text * 3000 if chance.random() < 0.1 else text.upper(),
        ])  # fmt: skip

    def _flipped(self, data: bytes) -> bytes:
        """The same with a few bytes that are others."""
        changed = bytearray(data or b"{}")
        for _ in range(self._chance.choice([1, 1, 2, 5])):
            changed[self._chance.randrange(len(changed))] = self._chance.choice(
                [0, 10, 34, 92, 123, 125, 0x80, 0xC0, 0xED, 0xFF]
            )
        return bytes(changed)


def _object(fields: Mapping[str, str]) -> str:
    return "{" + ",".join(f"{json.dumps(name)}:{value}" for name, value in fields.items()) + "}"

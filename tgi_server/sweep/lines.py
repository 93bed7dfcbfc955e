"""JSON lines that survive being cut off."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson

from tgi_server.errors import ConfigError


def parse(data: bytes, path: Path) -> tuple[list[dict[str, Any]], int]:
    """The objects of a file, and of how many bytes they are.

    A last line without an end was not written to its end, and is left out; so is one that is no JSON, which a machine
    that lost power leaves behind.

    Args:
        path: of the file, for messages.

    Raises:
        ConfigError: another line is no JSON object.
    """
    *whole, _ = data.split(b"\n")
    found: list[dict[str, Any]] = []
    length = 0
    for number, line in enumerate(whole, 1):
        value = _loads(line)
        if value is None and number == len(whole):
            break
        if value is None:
            raise ConfigError(f"{path}: line {number} cannot be read; what wrote it was no sweep")
        found.append(value)
        length += len(line) + 1
    return found, length


def _loads(line: bytes) -> dict[str, Any] | None:
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError:
        return None
    return value if isinstance(value, dict) else None

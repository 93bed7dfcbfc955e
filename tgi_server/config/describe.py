"""Words about options for help and error messages, made from the schema. Stdlib only."""

from __future__ import annotations

import difflib
import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from enum import Enum
from typing import Any, get_args, get_type_hints

from tgi_server.config.schema import Options, Part, ServerConfig, documented_options

TYPES: Mapping[str, Any] = {
    name: hint
    for name, hint in get_type_hints(ServerConfig).items()
    if name in {field.name for field in documented_options()}
}
"""The type of each option, `Optional` included."""

_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}


def is_optional(hint: Any) -> bool:
    """Whether the option may be left unset (null)."""
    return type(None) in get_args(hint)


def inner_type(hint: Any) -> Any:
    """The type without `Optional`."""
    return next((part for part in get_args(hint) if part is not type(None)), hint)


def expectation(hint: Any) -> str:
    """What may be written for an option of this type."""
    kind = inner_type(hint)
    words = "one of " + ", ".join(kind.__members__) if issubclass(kind, Enum) else _WORDS[kind]
    return f"{words}, or null" if is_optional(hint) else words


def shown(value: Any) -> str:
    """A value as it would be written on the command line."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Part):
        return value._target_
    return value.name if isinstance(value, Enum) else str(value)


def nearest(name: str, names: Iterable[str], prefix: str = "") -> str:
    """` (did you mean NAME?)`, or nothing when no name resembles it."""
    matches = difflib.get_close_matches(name, list(names), n=1)
    return f" (did you mean {prefix}{matches[0]}?)" if matches else ""


def refused(name: str, value: Any, reason: str, origin: str | None) -> str:
    """The line that says why a value cannot be had."""
    return f"{name}={shown(value)}: {reason}" + (f" ({origin})" if origin else "")


def changed(config: ServerConfig, origins: Mapping[str, str]) -> list[str]:
    """`NAME=VALUE (ORIGIN)` for everything that differs from the schema's default."""
    defaults = vars(ServerConfig())
    return [
        f"{name}={shown(getattr(config, name))} ({origins.get(name, 'configuration files')})"
        for name, default in defaults.items()
        if getattr(config, name) != default
    ]


def given(config: ServerConfig, origins: Mapping[str, str], names: Collection[str], reason: str) -> Iterator[str]:
    """A line that ends with `reason` for each option of `names` that the operator set, the environment left aside."""
    defaults = vars(ServerConfig())
    for name in names:
        origin = origins.get(name, "")
        if origin.startswith("environment"):
            continue
        if origin or getattr(config, name) != defaults[name]:
            yield refused(name, getattr(config, name), reason, origin or "configuration files")


def out_of_bounds(config: ServerConfig, origins: Mapping[str, str]) -> Iterator[str]:
    """A line for each value that has the right type but lies outside of what its option allows."""
    for field in documented_options():
        value = getattr(config, field.name)
        reason = _broken_bound(value, field.metadata)
        if reason:
            yield refused(field.name, value, reason, origins.get(field.name))
    for name, part in _parts(config):
        if not part._target_.startswith("tgi_server."):
            yield refused(f"{name}._target_", part._target_, "only parts of tgi_server can be named", origins.get(name))


def _broken_bound(value: Any, bounds: Mapping[str, Any]) -> str | None:
    if value == "":
        return "may not be empty"
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    if not math.isfinite(value):
        return "must be finite"
    if bounds["minimum"] is not None and value < bounds["minimum"]:
        return f"must be at least {bounds['minimum']}"
    if bounds["maximum"] is not None and value > bounds["maximum"]:
        return f"must be at most {bounds['maximum']}"
    return None


def _parts(config: Options) -> Iterator[tuple[str, Part]]:
    return ((name, value) for name, value in vars(config).items() if isinstance(value, Part))

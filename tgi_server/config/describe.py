"""Words about options for help and error messages, made from the schema. Stdlib only."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from enum import Enum
from typing import Any, get_args, get_origin, get_type_hints

from tgi_server.config.schema import Options, Part, ServerConfig, documented_options

TYPES: Mapping[str, Any] = {
    name: hint
    for name, hint in get_type_hints(ServerConfig).items()
    if name in {field.name for field in documented_options()}
}
"""The type of each option, `Optional` included."""

NAMES = [field.name for field in documented_options()]
NAMES += [name for name in ServerConfig.__dataclass_fields__ if name not in NAMES]
"""All options in the order of their groups, then the parts."""

SECRETS = frozenset(field.name for field in documented_options() if field.metadata["secret"])
"""Options whose value is never shown."""

MASK = "***"
"""What is shown instead."""

QUANTIZE_NOT_SERVED = ("awq", "gptq", "bitsandbytes", "bitsandbytes-nf4", "bitsandbytes-fp4")
"""Documented methods that are still to be built."""

_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}


def is_optional(hint: Any) -> bool:
    """Whether the option may be left unset (null)."""
    return type(None) in get_args(hint)


def is_list(hint: Any) -> bool:
    """Whether the option holds several texts."""
    return get_origin(hint) is list


def inner_type(hint: Any) -> Any:
    """The type without `Optional`, or of one value of a list."""
    return next((part for part in get_args(hint) if part is not type(None)), hint)


def expectation(hint: Any) -> str:
    """What may be written for an option of this type."""
    if is_list(hint):
        return "a list of texts"
    kind = inner_type(hint)
    words = "one of " + ", ".join(kind.__members__) if issubclass(kind, Enum) else _WORDS[kind]
    return f"{words}, or null" if is_optional(hint) else words


def shown(value: Any) -> str:
    """A value as it would be written on the command line, passwords within URLs left out."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Part):
        return value._target_
    if isinstance(value, list):
        return f"[{','.join(map(shown, value))}]"
    return value.name if isinstance(value, Enum) else masked_url(str(value))


def masked_url(text: str) -> str:
    """The text without what stands before the @ of a URL."""
    return re.sub(r"(?<=://)[^/@\s]+@", f"{MASK}@", text)


def assigned(name: str, value: Any) -> str:
    """`NAME=VALUE`, a secret left out."""
    return f"{name}={MASK if name in SECRETS and value else shown(value)}"


def nearest(name: str, names: Iterable[str], prefix: str = "") -> str:
    """` (did you mean NAME?)`, or nothing when no name resembles it."""
    matches = difflib.get_close_matches(name, list(names), n=1)
    return f" (did you mean {prefix}{matches[0]}?)" if matches else ""


def refused(name: str, value: Any, reason: str, origin: str | None) -> str:
    """The line that says why a value cannot be had."""
    return f"{assigned(name, value)}: {reason}" + (f" ({origin})" if origin else "")


def differing(config: ServerConfig) -> list[str]:
    """The options and parts whose value is not the schema's default."""
    defaults = ServerConfig()
    return [name for name in NAMES if getattr(config, name) != getattr(defaults, name)]


def changed(config: ServerConfig, origins: Mapping[str, str]) -> list[str]:
    """`NAME=VALUE (ORIGIN)` for everything that differs from the schema's default."""
    return [f"{assigned(name, getattr(config, name))} ({origins[name]})" for name in differing(config)]


def varied(configs: Sequence[ServerConfig]) -> list[list[str]]:
    """For each configuration `NAME=VALUE` of everything that is not the same in all."""
    names = [name for name in NAMES if any(getattr(c, name) != getattr(configs[0], name) for c in configs)]
    return [[assigned(name, getattr(config, name)) for name in names] for config in configs]


def given(config: ServerConfig, origins: Mapping[str, str], names: Collection[str], reason: str) -> Iterator[str]:
    """A line that ends with `reason` for each option of `names` that the operator set, the environment left aside.

    A YAML file that repeats a default sets nothing.
    """
    different = differing(config)
    for name in names:
        origin = origins.get(name, "")
        typed = origin == "command line" or origin.startswith("-")
        if typed or (name in different and not origin.startswith("environment")):
            yield refused(name, getattr(config, name), reason, origin)


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
    if value == "" or (isinstance(value, list) and "" in value):
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

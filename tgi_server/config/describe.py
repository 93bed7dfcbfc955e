"""Words about options for help and error messages, made from the schema. Stdlib only."""

from __future__ import annotations

import difflib
import math
import re
import shlex
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from enum import Enum
from typing import Any

from tgi_server.config import options, parts
from tgi_server.config.base import Part
from tgi_server.config.options import inner_type, is_list, is_optional
from tgi_server.config.schema import ServerConfig

MASK = "***"
"""What is shown instead."""

_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}


def expectation(hint: Any) -> str:
    """What may be written for an option of this type."""
    if is_list(hint):
        return "a list of texts"
    kind = inner_type(hint)
    words = "one of " + ", ".join(kind.__members__) if issubclass(kind, Enum) else _WORDS[kind]
    return f"{words}, or null" if is_optional(hint) else words


def expected(name: str) -> str:
    """What may be written for an option."""
    return " or ".join([expectation(options.hint(name)), *options.words(name)])


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
    """`NAME=VALUE`, a secret left out; the field of a job under its short name."""
    hidden = value and options.is_secret(name)
    return f"{options.short(name)}={MASK if hidden else shown(options.in_words(name, value))}"


def command(argv: Sequence[str]) -> str:
    """The command line, quoted for a shell, without its secrets."""
    words = list[str]()
    secret = False
    for word in argv:
        name, equals, _ = word.partition("=")
        plain = name.lstrip("-+~").replace("-", "_")
        hidden = equals and options.is_secret(options.canonical(plain))
        words.append(MASK if secret else f"{name}={MASK}" if hidden else masked_url(word))
        secret = not equals and word.startswith("--") and options.is_secret(plain)
    return shlex.join(["python", "-m", "tgi_server", *words])


def nearest(name: str, names: Iterable[str], prefix: str = "") -> str:
    """` (did you mean NAME?)`, or nothing when no name resembles it."""
    matches = difflib.get_close_matches(name, list(names), n=1)
    return f" (did you mean {prefix}{matches[0]}?)" if matches else ""


def refused(name: str, value: Any, reason: str, origin: str | None) -> str:
    """The line that says why a value cannot be had."""
    return f"{assigned(name, value)}: {reason}" + (f" ({origin})" if origin else "")


def differing(config: ServerConfig) -> list[str]:
    """The options, parts and fields of parts whose value is not the default."""
    defaults = options.values(ServerConfig())
    return [name for name, value in options.values(config).items() if name not in defaults or value != defaults[name]]


def changed(config: ServerConfig, origins: Mapping[str, str]) -> list[str]:
    """`NAME=VALUE (ORIGIN)` for everything that differs from the default."""
    values = options.values(config)
    return [f"{assigned(name, values[name])} ({origins[name]})" for name in differing(config)]


def varied(configs: Sequence[ServerConfig]) -> list[list[str]]:
    """For each configuration `NAME=VALUE` of everything that is not the same in all."""
    runs = [options.values(config, whole=True) for config in configs]
    names = dict.fromkeys(name for run in runs for name in run)
    different = [name for name in names if any(run.get(name) != runs[0].get(name) for run in runs)]
    return [[assigned(name, run[name]) for name in different if name in run] for run in runs]


def given(config: ServerConfig, origins: Mapping[str, str], names: Collection[str], reason: str) -> Iterator[str]:
    """A line that ends with `reason` for each option of `names` that the operator set, the environment left aside.

    Of a part its fields count too. A YAML file that repeats a default sets nothing.
    """
    different = differing(config)
    for name, value in options.values(config, whole=True).items():
        origin = origins.get(name, "")
        typed = origin == "command line" or origin.startswith("-")
        meant = typed or (name in different and not origin.startswith("environment"))
        if meant and name.partition(".")[0] in names:
            yield refused(name, value, reason, origin)


def out_of_bounds(config: ServerConfig, origins: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Name and line of each value that has the right type but lies outside of what its option allows."""
    for name, value in options.values(config).items():
        reason = None if name in parts.PARTS else _broken_bound(value, options.metadata(name, config))
        if reason:
            yield name, refused(name, value, reason, origins.get(name))


def _broken_bound(value: Any, bounds: Mapping[str, Any]) -> str | None:
    if value == "" or (isinstance(value, list) and "" in value):
        return "may not be empty"
    if value in (bounds.get("words") or {}).values():
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    if not math.isfinite(value):
        return "must be finite"
    low, high = bounds.get("minimum"), bounds.get("maximum")
    if low is not None and value < low:
        return f"must be at least {low}"
    return f"must be at most {high}" if high is not None and value > high else None

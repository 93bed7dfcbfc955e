"""The options by name: their types and whom they concern. A part's field is called `PART.FIELD`.

A field of the job can also be written without `job.`, where no option has that name: `clients=8`; and with dots in
the place of its underscores: `slo.ttft_p95_ms=500`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, get_args, get_origin, get_type_hints

from tgi_server.config import files, parts
from tgi_server.config.base import Part
from tgi_server.config.schema import ServerConfig, documented_options, flags_with_value

_METADATA: Mapping[str, Mapping[str, Any]] = {field.name: field.metadata for field in documented_options()}

TYPES: Mapping[str, Any] = {name: hint for name, hint in get_type_hints(ServerConfig).items() if name in _METADATA}
"""The type of each option, `Optional` included."""

NAMES = [*_METADATA, *parts.PARTS]
"""All options in the order of their groups, then the parts."""


def groups() -> list[type[Any]]:
    """The classes that hold the options, in their order."""
    return list(ServerConfig.__bases__)


def hint(name: str) -> Any:
    """The type of an option or of a part's field; None where no choice has such a field."""
    part, dot, field = name.partition(".")
    if not dot:
        return TYPES.get(name)
    found = parts.known(part).get(field) if part in parts.TYPED else None
    return found.hint if found else None


def is_optional(hint: Any) -> bool:
    """Whether the option may be left unset (null)."""
    return type(None) in get_args(hint)


def is_list(hint: Any) -> bool:
    """Whether the option holds several texts."""
    return get_origin(hint) is list


def inner_type(hint: Any) -> Any:
    """The type without `Optional`, or of one value of a list."""
    return next((part for part in get_args(hint) if part is not type(None)), hint)


def is_switch(name: str) -> bool:
    """Whether the flag alone stands for true."""
    return inner_type(hint(name)) is bool and name not in flags_with_value()


def canonical(name: str) -> str:
    """The full name: `job.clients` for `clients`, `job.slo_ttft_p95_ms` for `slo.ttft_p95_ms`, any other as it is."""
    part, _, rest = name.partition(".")
    own = part == "job" and "." in rest
    if not own and (name in TYPES or part in parts.PARTS or part in files.groups()):
        return name
    field = (rest if own else name).replace(".", "_")
    return f"job.{field}" if field in parts.known("job") else name


def short(name: str) -> str:
    """The name as it is usually written: without `job.` where that can be left out."""
    field = name.removeprefix("job.")
    return name if field in TYPES or field in parts.PARTS or field == "_target_" else field


def metadata(name: str, config: ServerConfig | None = None) -> Mapping[str, Any]:
    """What `base.option` was told of an option or a part's field (of the class that `config` has chosen)."""
    part, dot, field = name.partition(".")
    if not dot:
        return _METADATA.get(name) or parts.PARTS[name]
    found = parts.fields(part, getattr(config, part)._target_) if config else parts.known(part)
    return found[field].metadata if field in found else {}


def is_secret(name: str) -> bool:
    """Whether the value of an option or field is never shown."""
    part, dot, field = name.partition(".")
    if not dot:
        return bool(_METADATA.get(name, {}).get("secret"))
    parts.known(part)  # so that all its classes have been asked about
    return parts.is_secret(field)


def words(name: str) -> Mapping[str, int]:
    """Words that may stand for an option's number, and what they are kept as."""
    found: Mapping[str, int] = _METADATA.get(name, {}).get("words") or {}
    return found


def in_words(name: str, value: Any) -> Any:
    """The value as it is written: `auto` for what that is kept as."""
    return next((word for word, kept in words(name).items() if kept == value), value)


def concerns(name: str) -> tuple[str, ...]:
    """Which of `base.CONCERNED` have to be started anew when an option, a part or a field of one changes."""
    part, _, field = name.partition(".")
    own: tuple[str, ...] = metadata(name).get("concerns") or ()
    if own or field:
        return own or tuple(parts.PARTS[part]["concerns"])
    return next(tuple(group.concerns) for group in groups() if name in {option.name for option in fields(group)})


def values(config: ServerConfig, whole: bool = False) -> dict[str, Any]:
    """The value of every option and part, and of the fields that a part is given, or of its `whole` class."""
    found: dict[str, Any] = {}
    for name in NAMES:
        value = getattr(config, name)
        if not isinstance(value, Part):
            found[name] = value
            continue
        found[name] = value._target_
        inner = parts.values(name, value) if whole else value.fields
        found |= {f"{name}.{field}": value for field, value in inner.items()}
    return found

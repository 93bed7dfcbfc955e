"""Replaceable parts: which class a part's YAML names, and the fields that it takes from there.

The fields of a part are those of the dataclass that its `_target_` names, described by `base.option` as all options
are. A class is imported only when something asks about it; it has to be light (no torch at its top).
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from functools import cache
from typing import Any, get_args, get_type_hints

import yaml

from tgi_server.config import files
from tgi_server.config.base import Part
from tgi_server.config.schema import ServerConfig
from tgi_server.errors import UsageError

_OURS = "tgi_server."
_MISSING = "???"

PARTS: Mapping[str, Mapping[str, Any]] = {
    field.name: field.metadata for field in dataclasses.fields(ServerConfig) if "target" in field.metadata
}
"""Each part, with its default target, its help, whom it concerns and whether its fields can be set (`typed`)."""

_secret: set[str] = set()
"""Names of the secret fields of all classes that were asked about."""

TYPED = [name for name, metadata in PARTS.items() if metadata["typed"]]


@dataclass(frozen=True)
class PartField:
    """One field of a part's class.

    Attributes:
        hint: its type, `Optional` included.
        default: as YAML holds it.
        metadata: what `base.option` was told.
    """

    hint: Any
    default: Any
    metadata: Mapping[str, Any]


def _check_ours(path: str) -> None:
    if not path.startswith(_OURS):
        raise UsageError(f"_target_={path}: only parts of tgi_server can be named")


@cache
def target(path: str) -> Any:
    """The class or function that a dotted path names.

    Raises:
        UsageError: it does not exist or lies outside of tgi_server.
    """
    module, _, name = path.rpartition(".")
    _check_ours(path)
    try:
        return getattr(importlib.import_module(module), name)
    except (ModuleNotFoundError, AttributeError) as error:
        raise UsageError(f"_target_={path}: {error}") from error


def check_kind(part: str, path: str) -> None:
    """Raise UsageError for a target that is another kind of part."""
    offers = PARTS[part]["offers"]
    if missing := [name for name in offers if not hasattr(target(path), name)]:
        raise UsageError(f"_target_={path}: it is no such part, it has no `{missing[0]}`")


@cache
def fields_of(path: str) -> Mapping[str, PartField]:
    """The fields of a target, in their order; none where it is no dataclass. Raises UsageError as `target` does."""
    kind = target(path)
    if not (isinstance(kind, type) and dataclasses.is_dataclass(kind)):
        return {}
    hints, inherited = get_type_hints(kind), Part.__dataclass_fields__
    own = [field for field in dataclasses.fields(kind) if field.init and field.name not in inherited]
    _secret.update(field.name for field in own if field.metadata.get("secret"))
    return {field.name: PartField(hints[field.name], _default(field), field.metadata) for field in own}


def fields(part: str, path: str) -> Mapping[str, PartField]:
    """The fields that a part has with this target; none, and nothing is imported, where a part is not `typed`."""
    if part in TYPED:
        return fields_of(path)
    _check_ours(path)
    return {}


def is_secret(field: str) -> bool:
    """Whether a field of this name is never shown: rather once too often, as its part is not looked at."""
    return field in _secret


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return _MISSING if field.default is dataclasses.MISSING else plain(field.default)


def plain(value: Any) -> Any:
    """A value as YAML holds it."""
    return value.name if isinstance(value, Enum) else value


@cache
def choices(part: str) -> Mapping[str, str]:
    """The choices in `conf/`, each with the target it names."""
    paths = sorted((files.directory() / part).glob("*.yaml"))
    return {path.stem: yaml.safe_load(path.read_text(encoding="utf-8"))["_target_"] for path in paths}


@cache
def known(part: str) -> Mapping[str, PartField]:
    """The fields that any of the part's choices has; where two have the same one, that of the first."""
    found: dict[str, PartField] = {}
    for path in choices(part).values() if part in TYPED else ():
        found = {**fields_of(path), **found}
    return found


def users(part: str, field: str) -> list[str]:
    """The choices that have such a field, `job=bench`."""
    return [f"{part}={choice}" for choice, path in choices(part).items() if field in fields_of(path)]


def values(name: str, part: Part) -> dict[str, Any]:
    """All fields of the part called `name` with their values, as YAML holds them."""
    return {field: part.fields.get(field, known.default) for field, known in fields(name, part._target_).items()}


def instantiate(part: Part, **kwargs: Any) -> Any:
    """What the part's `_target_` makes of the part's own fields, typed, and `kwargs`.

    Raises:
        UsageError: the target does not exist or lies outside of tgi_server.
    """
    make = target(part._target_)
    known = fields_of(part._target_) if part.fields else {}
    return make(**{name: _typed(known[name].hint, value) for name, value in part.fields.items()}, **kwargs)


def _typed(hint: Any, value: Any) -> Any:
    """The enum's member that is meant, of an enum or an optional one; any other value as it is."""
    for kind in (hint, *get_args(hint)):
        if isinstance(kind, type) and issubclass(kind, Enum) and value is not None:
            return kind[value]
    return list(value) if isinstance(value, list) else value

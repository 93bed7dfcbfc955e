"""A part's YAML gets the types of the class that it names. With composition, all that knows OmegaConf."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, cast

from omegaconf import DictConfig, IntegerNode, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from tgi_server.config import options, parts
from tgi_server.config.arguments import BOOLEANS
from tgi_server.config.base import Part
from tgi_server.config.describe import expectation, expected, nearest, refused
from tgi_server.config.options import inner_type, is_list
from tgi_server.config.schema import ServerConfig
from tgi_server.errors import UsageError

_INTERPOLATION = "${"

_WORDED = [name for name in options.TYPES if options.words(name)]
"""Options that take words besides numbers."""

SCHEMA = dataclasses.make_dataclass(
    "Schema",
    [
        (name, Any, dataclasses.field(default_factory=partial(dict, _target_=parts.PARTS[name]["target"])))
        for name in parts.PARTS
    ]
    + [(name, Any, dataclasses.field(default=getattr(ServerConfig, name))) for name in _WORDED],
    bases=(ServerConfig,),
)
SCHEMA.__module__, SCHEMA.__qualname__ = __name__, "SCHEMA"  # where another process finds it
"""What Hydra composes: anything may stand in a part until it is known which class it names, and in an option that takes
words besides numbers."""


_Problem = tuple[str, str]
"""The part or the field at fault, and the line on it."""


def opened(overrides: Sequence[str]) -> list[str]:
    """The overrides, those of a part's fields so that Hydra takes what the part's YAML does not have yet."""
    pattern = rf"\+{{0,2}}(({'|'.join(parts.PARTS)})\.[^=]+=.*)"
    return [re.sub(rf"\A{pattern}\Z", r"++\1", override, flags=re.DOTALL) for override in overrides]


def put_in(composed: DictConfig, origins: Mapping[str, str]) -> dict[str, str]:
    """Give every part in a composed `SCHEMA` the types of its class, and check the values against them.

    Returns:
        The class that each part names, of which its node says nothing any more.

    Raises:
        UsageError: tells all fields that a class does not have, and all values that are of another type.
    """
    problems: list[_Problem] = []
    targets = {name: _target(name, composed[name], origins, problems) for name in parts.PARTS}
    nodes = {name: _node(name, path, composed[name], origins, problems) for name, path in targets.items() if path}
    if problems:
        raise UsageError("; ".join(line for _, line in problems), [name for name, _ in problems])
    for name, node in nodes.items():
        composed[name] = node
    return targets


def put_in_words(composed: DictConfig, origins: Mapping[str, str]) -> Iterator[_Problem]:
    """Make numbers of what is no word in the options that take either; yields those that are none, and their lines."""
    for name in _WORDED:
        value = composed[name]
        if value not in options.words(name):
            try:
                number = IntegerNode(value, is_optional=False)._value()
            except OmegaConfBaseException:
                yield name, refused(name, value, f"expected {expected(name)}", origins.get(name))
                continue
            if number in options.words(name).values():
                low = options.metadata(name)["minimum"]
                yield name, refused(name, str(number), f"must be at least {low}", origins.get(name))
            if not OmegaConf.is_interpolation(composed, name):
                composed[name] = number


def config(composed: DictConfig, targets: Mapping[str, str], origins: Mapping[str, str]) -> ServerConfig:
    """The configuration out of a `SCHEMA` whose parts are typed; `targets` as `put_in` returned them.

    Raises:
        UsageError: a class does not want to be made of its fields.
    """
    made = {name: _part(name, path, composed[name], origins) for name, path in targets.items()}
    values = {**vars(OmegaConf.to_object(composed)), **made}
    values |= {name: options.words(name).get(values[name], values[name]) for name in _WORDED}
    return ServerConfig(**{field.name: values[field.name] for field in dataclasses.fields(ServerConfig)})


def written(composed: DictConfig, targets: Mapping[str, str]) -> dict[str, Any]:
    """All values with interpolations as they were written, choices by name, of parts all fields."""
    values = cast(dict[str, Any], OmegaConf.to_container(composed, enum_to_str=True))
    for name, path in targets.items():
        fields = parts.fields(name, path)
        values[name] = {"_target_": path, **{field: values[name][field] for field in fields}}
    return values


def _part(name: str, path: str, node: DictConfig, origins: Mapping[str, str]) -> Part:
    try:
        OmegaConf.to_object(node)  # a class may check in __post_init__ how its fields go together
    except (TypeError, ValueError) as error:
        raise UsageError(_told(f"{name}: {error}", origins.get(name)), [name]) from error
    values = cast(dict[str, Any], OmegaConf.to_container(node, resolve=True, enum_to_str=True))
    known = parts.fields(name, path)
    return Part(path, {field: values[field] for field in known if values[field] != known[field].default})


def _told(line: str, origin: str | None) -> str:
    return line + (f" ({origin})" if origin else "")


def _target(name: str, content: Any, origins: Mapping[str, str], problems: list[_Problem]) -> str:
    """The class that a part names; empty, and told in `problems`, where that cannot be."""
    path = content.get("_target_") if isinstance(content, DictConfig) else None
    if not isinstance(path, str):
        line = refused(name, content, "expected a part, which names its _target_", origins.get(name))
        problems.append((name, line))
        return ""
    try:
        parts.fields(name, path)
        parts.check_kind(name, path)
    except UsageError as error:
        problems.append((name, _told(f"{name}.{error}", origins.get(name))))
        return ""
    return path


def _node(
    name: str, path: str, content: DictConfig, origins: Mapping[str, str], problems: list[_Problem]
) -> DictConfig:
    """A node with the types of the part's class; what cannot be put into it is told in `problems`."""
    known = parts.fields(name, path)
    node = OmegaConf.structured(parts.target(path)) if known else OmegaConf.create({})
    for field, value in cast(dict[str, Any], OmegaConf.to_container(content)).items():
        if field != "_target_":
            full = f"{name}.{field}"
            problems += ((full, line) for line in _assign(node, full, value, known, origins))
    return node


def _assign(
    node: DictConfig, name: str, value: Any, known: Mapping[str, parts.PartField], origins: Mapping[str, str]
) -> Iterator[str]:
    """Set one field, or say why that cannot be."""
    part, _, field = name.partition(".")
    if field not in known:
        yield _unknown(part, field, value, known, origins.get(name))
        return
    hint, origin = known[field].hint, origins.get(name)
    if inner_type(hint) is str and isinstance(value, float):  # a commit like 5e1234 would be lost
        yield refused(name, value, "YAML reads it as a number; put it in quotes", origin)
        return
    try:
        node[field] = _meant(hint, value)
    except (OmegaConfBaseException, ValueError):
        yield refused(name, value, f"expected {expectation(hint)}", origin)


def _meant(hint: Any, value: Any) -> Any:
    """What a text stands for where the command line could not know the type."""
    if not isinstance(value, str) or _INTERPOLATION in value:
        return value
    if inner_type(hint) is bool:
        if value.lower() not in BOOLEANS:
            raise ValueError
        return BOOLEANS[value.lower()]
    return [value] if is_list(hint) else value


def _unknown(part: str, field: str, value: Any, known: Mapping[str, Any], origin: str | None) -> str:
    """A line on a field that the chosen class does not have: who has it, or which name was meant."""
    name = f"{part}.{field}"
    if users := parts.users(part, field):
        return refused(name, value, f"only {' or '.join(users)} uses this", origin)
    hint = nearest(field, known, f"{part}.")
    return _told(f"unknown option {name}{hint}", origin)

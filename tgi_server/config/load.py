"""The configuration on its way: composed once by the launcher, written to the child processes, read there."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import IO, Any, TypeVar, get_type_hints

import yaml

from tgi_server.config.describe import inner_type
from tgi_server.config.schema import Launch, Options, Part, ServerConfig, documented_options, freeze
from tgi_server.errors import UsageError

_OptionsT = TypeVar("_OptionsT", bound=Options)


def compose(
    overrides: Sequence[str],
    config_dir: str | None = None,
    config_name: str = "config",
    origins: Mapping[str, str] | None = None,
) -> ServerConfig:
    """The configuration that the YAML files and then the overrides describe, checked and read-only.

    Args:
        overrides: in Hydra's override grammar, the last one wins.
        config_dir: a directory of YAML files that is searched before our own `conf/`.
        config_name: the file to start from, without `.yaml`.
        origins: where the value of an option or group was written, for error messages.

    Raises:
        UsageError: an option or a choice does not exist, has the wrong type, or is out of bounds.
    """
    from tgi_server.config import composition  # Hydra takes a while to import, and child processes never need it

    return composition.compose(overrides, config_dir, config_name, origins or {})


def as_yaml(config: ServerConfig) -> str:
    """Every option and part with its value, for a person to read."""
    values = dataclasses.asdict(config, dict_factory=_plain)
    options = {field.name: values.pop(field.name) for field in documented_options()}
    return str(yaml.safe_dump(options | values, sort_keys=False, allow_unicode=True))


def dump(launch: Launch) -> str:
    """The launch as ASCII YAML, for `read` in a child process."""
    return str(yaml.safe_dump(dataclasses.asdict(launch, dict_factory=_plain), sort_keys=False))


def read(stream: IO[str]) -> Launch:
    """The launch that `dump` wrote, read-only."""
    launch = _build(Launch, yaml.safe_load(stream))
    freeze(launch)
    return launch


def instantiate(part: Part, **kwargs: Any) -> Any:
    """What the part's `_target_` makes of the part's own fields and `kwargs`.

    Raises:
        UsageError: the target does not exist or lies outside of tgi_server.
    """
    module, _, name = part._target_.rpartition(".")
    if not module.startswith("tgi_server."):
        raise UsageError(f"_target_={part._target_}: only parts of tgi_server can be named")
    own = {field.name: getattr(part, field.name) for field in dataclasses.fields(part) if field.name != "_target_"}
    try:
        target = getattr(importlib.import_module(module), name)
    except (ModuleNotFoundError, AttributeError) as error:
        raise UsageError(f"_target_={part._target_}: {error}") from error
    return target(**own, **kwargs)


def _plain(items: list[tuple[str, Any]]) -> dict[str, Any]:
    return {name: value.name if isinstance(value, Enum) else value for name, value in items}


def _build(kind: type[_OptionsT], values: dict[str, Any]) -> _OptionsT:
    hints = get_type_hints(kind)
    return kind(**{name: _typed(inner_type(hints[name]), value) for name, value in values.items()})


def _typed(kind: Any, value: Any) -> Any:
    if issubclass(kind, Options):
        return _build(kind, value)
    return kind[value] if issubclass(kind, Enum) and value is not None else value

"""The configuration on its way: composed once by the launcher, written to the child processes, read there."""

from __future__ import annotations

import dataclasses
import importlib
import math
import re
from collections.abc import Sequence
from dataclasses import replace
from enum import Enum
from typing import IO, Any, TypeVar, get_type_hints

import yaml

from tgi_server.config.arguments import Arguments, Composition
from tgi_server.config.describe import MASK, NAMES, SECRETS, differing, inner_type, masked_url
from tgi_server.config.schema import Launch, Options, Part, ServerConfig, freeze
from tgi_server.errors import UsageError

_OptionsT = TypeVar("_OptionsT", bound=Options)


def composition(arguments: Arguments) -> Composition:
    """The configuration that the YAML files and then the overrides describe, and where its values were written.

    Raises:
        UsageError: an option or a choice does not exist, has the wrong type, or is out of bounds.
    """
    from tgi_server.config import composition  # Hydra takes a while to import, and child processes never need it

    return composition.compose(arguments)


def combinations(arguments: Arguments) -> list[Arguments]:
    """One run, or with `multirun` those that its sweeps make, the last one changing fastest.

    Raises:
        UsageError: a sweep cannot be read.
    """
    from tgi_server.config import composition

    if not arguments.multirun:
        return [arguments]
    return [replace(arguments, overrides=overrides) for overrides in composition.combinations(arguments)]


def ask_hydra(arguments: Arguments) -> None:
    """Print what Hydra itself answers to `arguments.hydra`.

    Raises:
        UsageError: the configuration it would tell about cannot be composed.
    """
    from tgi_server.config import hydra_flags

    hydra_flags.answer(arguments)


def compose(overrides: Sequence[str], config_dir: str | None = None, config_name: str = "config") -> ServerConfig:
    """The configuration alone; see `composition` and `Arguments`."""
    return composition(Arguments(list(overrides), config_dir=config_dir, config_name=config_name)).config


def as_yaml(composed: Composition, resolve: bool = False) -> str:
    """Every option and part with its value, for a person to read; where it came from is a comment.

    Args:
        composed: secrets in it are left out.
        resolve: whether interpolations are replaced by what they stand for.
    """
    values = dataclasses.asdict(composed.config, dict_factory=_plain) if resolve else composed.written
    different = differing(composed.config)
    return "".join(_line(name, values[name], composed.origins[name] if name in different else None) for name in NAMES)


def _line(name: str, value: Any, origin: str | None) -> str:
    if name in SECRETS and value:
        value = MASK
    flow = None if isinstance(value, (list, dict)) else False  # a comment fits after one line only
    text = yaml.dump({name: value}, Dumper=_Dumper, allow_unicode=True, default_flow_style=flow, width=math.inf)
    return masked_url(text.rstrip("\n")) + (f"  # {origin}\n" if origin else "\n")


class _Dumper(yaml.SafeDumper):
    """Quotes texts like 5e1234, which OmegaConf would read back as numbers; YAML 1.1 wants a dot in those."""


_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"[-+]?[\d_]+[eE][-+]?\d+"), list("-+0123456789"))


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

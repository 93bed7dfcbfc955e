"""The configuration on its way: composed once by the launcher, written to the child processes, read there."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import IO, Any, TypeVar, get_type_hints

import yaml

from tgi_server.config import options, parts
from tgi_server.config.arguments import Arguments, Composition
from tgi_server.config.base import Options, freeze
from tgi_server.config.describe import MASK, differing, masked_url
from tgi_server.config.options import inner_type
from tgi_server.config.parts import instantiate as instantiate
from tgi_server.config.schema import Launch, ServerConfig
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
    try:
        return [replace(arguments, overrides=overrides) for overrides in composition.combinations(arguments)]
    except UsageError as error:
        raise UsageError("; ".join([*arguments.problems, str(error)])) from error


def parted(arguments: Arguments) -> tuple[list[str], list[str]]:
    """The overrides that hold one value, and those that hold several."""
    from tgi_server.config.sweep import is_sweep

    swept = [override for override in arguments.overrides if is_sweep(override)]
    return [override for override in arguments.overrides if override not in swept], swept


def sweep_by_hydra(arguments: Arguments, place: Path, loss: Callable[[Arguments], float]) -> None:
    """See `config.hydra_sweep.run`."""
    from tgi_server.config import hydra_sweep

    hydra_sweep.run(arguments, place, loss)


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
    values = _resolved(composed.config) if resolve else composed.written
    commented = {name: composed.origins[name] for name in differing(composed.config)}
    lines: list[str] = []
    for name in options.NAMES:
        if name in parts.PARTS and len(values[name]) > 1:
            lines += _part_lines(name, values[name], commented)
        else:
            lines.append(_line(name, values[name], commented.get(name), options.is_secret(name)))
    return "".join(lines)


def _resolved(config: ServerConfig) -> dict[str, Any]:
    values = dataclasses.asdict(config, dict_factory=_plain)
    values |= {name: options.in_words(name, values[name]) for name in options.NAMES}
    for name in parts.PARTS:
        part = getattr(config, name)
        values[name] = {"_target_": part._target_, **parts.values(name, part)}
    return values


def _part_lines(name: str, values: dict[str, Any], commented: Mapping[str, str]) -> Iterator[str]:
    yield f"{name}:" + (f"  # {commented[name]}\n" if name in commented else "\n")
    for field, value in values.items():
        full = f"{name}.{field}"
        yield "  " + _line(field, value, commented.get(full), options.is_secret(full))


def _line(name: str, value: Any, origin: str | None, secret: bool) -> str:
    if secret and value:
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


def _plain(items: list[tuple[str, Any]]) -> dict[str, Any]:
    return {name: value.name if isinstance(value, Enum) else value for name, value in items}


def _build(kind: type[_OptionsT], values: dict[str, Any]) -> _OptionsT:
    hints = get_type_hints(kind)
    return kind(**{name: _typed(inner_type(hints[name]), value) for name, value in values.items()})


def _typed(kind: Any, value: Any) -> Any:
    if issubclass(kind, Options):
        return _build(kind, value)
    return kind[value] if issubclass(kind, Enum) and value is not None else value

"""YAML files and overrides to one typed `ServerConfig`, through Hydra. Nothing else imports Hydra or OmegaConf."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace

import hydra
from hydra._internal.defaults_list import DefaultsList
from hydra.core.config_loader import ConfigLoader
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import MissingConfigException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException, ValidationError

from tgi_server.config import describe, directory, files, later, options, provenance, sweep, typed_parts
from tgi_server.config.arguments import Arguments, Composition
from tgi_server.config.base import freeze
from tgi_server.config.schema import ServerConfig
from tgi_server.config.typed_parts import SCHEMA
from tgi_server.errors import UsageError

ConfigStore.instance().store(name="schema", node=SCHEMA)


def compose(arguments: Arguments) -> Composition:
    """See `tgi_server.config.load.composition`."""
    problems = list(arguments.problems)
    composition: Composition | None = None
    rest: Arguments | None = arguments
    while composition is None and rest is not None:
        try:
            composition = _compose(rest)
        except UsageError as error:  # Hydra ends at the first problem; the others are told, too
            problems.append(str(error))
            rest = _beside(rest, error.names)
    if composition is None or problems:
        raise UsageError("; ".join([*problems, *arguments.suspects]))
    return composition


def _beside(arguments: Arguments, names: Collection[str]) -> Arguments | None:
    """What to look through for further problems after one with the options `names`; None when nothing is left.

    When none of them was given here, the problem is in a file: what depends on none is left.
    """
    inside = tuple(f"{name}." for name in names)
    others = [override for override in arguments.overrides if not f"{_key(override)}.".startswith(inside)]
    if others != arguments.overrides:
        return replace(arguments, overrides=others)
    plain = [override for override in others if _key(override) in options.TYPES]
    rest = replace(arguments, overrides=plain, config_dir=None, config_name="config")
    return None if rest == arguments else rest


def _key(override: str) -> str:
    return override.lstrip("+~").partition("=")[0]


def _compose(arguments: Arguments) -> Composition:
    origins = dict(arguments.origins)
    with _loader(arguments, origins) as loader:
        composed, defaults = _composed(arguments, loader)
        if unknown := list(_unknown_keys(composed)):
            raise UsageError("; ".join(_unknown_option(name, None, origins) for name in unknown), unknown)
        if provenance.chosen_by_a_file(defaults, "deployment") == "sagemaker":
            raise UsageError("deployment=sagemaker has to be chosen on the command line: it adds environment variables")
        origins |= provenance.origins_in_files(loader, defaults) | _typed_origins(arguments)
        _put_in_words(composed, origins)
        targets = typed_parts.put_in(composed, origins)
        config = typed_parts.config(composed, targets, origins)
    if problems := dict(describe.out_of_bounds(config, origins)):
        raise UsageError("; ".join(problems.values()), problems)
    freeze(config)
    return Composition(config, origins, typed_parts.written(composed, targets))


def _composed(arguments: Arguments, loader: ConfigLoader) -> tuple[DictConfig, DefaultsList]:
    """What Hydra makes of the files and the overrides, and which files those are."""
    overrides = typed_parts.opened(arguments.overrides)
    composed = hydra.compose(arguments.config_name, overrides)
    if OmegaConf.get_type(composed) is not SCHEMA:
        raise UsageError(
            f"config_name={arguments.config_name}: its defaults list must begin with `- config` or `- schema`"
        )
    return composed, loader.compute_defaults_list(arguments.config_name, overrides, RunMode.RUN)


def _put_in_words(composed: DictConfig, origins: dict[str, str]) -> None:
    """Give the options that take words besides numbers their types; prompts are as long as may be where texts are.

    Raises:
        UsageError: tells all values that are neither.
    """
    problems = dict(typed_parts.put_in_words(composed, origins))
    if problems:
        raise UsageError("; ".join(problems.values()), problems)
    if composed.max_total_tokens == "auto" and "max_input_length" not in origins:
        composed.max_input_length = "auto"
        origins["max_input_length"] = "as max_total_tokens"


def combinations(arguments: Arguments) -> list[list[str]]:
    """See `tgi_server.config.load.combinations`."""
    with _loader(arguments, arguments.origins) as loader:
        return sweep.combinations(typed_parts.opened(arguments.overrides), loader)


@contextmanager
def _loader(arguments: Arguments, origins: Mapping[str, str]) -> Iterator[ConfigLoader]:
    """Hydra with the directories of the arguments. What it raises becomes a UsageError."""
    directory.use(arguments.config_dir)
    try:
        with hydra.initialize_config_dir(str(files.directory()), version_base="1.3"):
            yield GlobalHydra.instance().config_loader()
    except UsageError:
        raise
    except Exception as error:  # Hydra, OmegaConf and YAML raise many kinds, all about what the operator wrote
        explained = _explained(error, arguments.config_name, origins)
        raise UsageError(_without_secrets(str(explained), arguments.overrides), explained.names) from error


def _typed_origins(arguments: Arguments) -> dict[str, str]:
    """What the command line and the environment set; `quantize._target_` sets the part."""
    return {name.removesuffix("._target_"): origin for name, origin in arguments.origins.items()}


def _unknown_keys(composed: DictConfig) -> Iterator[str]:
    """Keys that `+key=value` added past the schema, which would be ignored."""
    allowed = {field.name for field in fields(ServerConfig)}
    return (name for name in map(str, composed) if name not in allowed)


def _explained(error: Exception, config_name: str, origins: Mapping[str, str]) -> UsageError:
    """One line that names the option, its value and what is allowed."""
    for cause in _chain(error):
        if isinstance(cause, MissingConfigException):
            group = str(cause.missing_cfg_file or config_name).rpartition("/")[0]
            return UsageError(_missing_file(cause, config_name, origins), [group] if group else [])
        if isinstance(cause, OverrideParseException):
            override = str(cause.override)
            line = f"cannot read {_shown(override)}: {_first_line(cause)}"
            return UsageError(line, [_key(override)])
        if isinstance(cause, OmegaConfBaseException) and cause.full_key:
            file = re.match(r"In '(.+?)':", str(error))
            line = _bad_key(cause, f"{file[1]}.yaml" if file else None, origins)
            return UsageError(line, [] if file else [str(cause.full_key)])
    return UsageError(_first_line(error))


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    if type(error).__module__.startswith("yaml"):
        return " ".join(line.strip() for line in lines)  # what is wrong and where are spread over its lines
    return lines[0].rstrip(".")


def _shown(override: str) -> str:
    key, equals, text = override.partition("=")
    return describe.assigned(key, text) if equals else override


def _without_secrets(line: str, overrides: Sequence[str]) -> str:
    """The line without what the overrides, readable or not, set secrets to."""
    for override in overrides:
        name = re.match(r"[+~]*(\w*)[^=]*=(.+)", override, re.DOTALL)
        if name and options.is_secret(name[1]):
            line = line.replace(name[2], describe.MASK)
    return line


def _missing_file(error: MissingConfigException, config_name: str, origins: Mapping[str, str]) -> str:
    missing = error.missing_cfg_file or config_name
    group, _, choice = str(missing).rpartition("/")
    if not group:
        return f"config_name={config_name}: there is no such file in the configuration directories"
    available = ", ".join(error.options or []) or "none"
    return describe.refused(group, choice, f"there is no such choice; available: {available}", origins.get(group))


def _bad_key(error: OmegaConfBaseException, file: str | None, origins: Mapping[str, str]) -> str:
    name = str(error.full_key)
    if isinstance(error, (ConfigKeyError, ConfigAttributeError)):
        return _unknown_option(name, file, origins)
    where = file or origins.get(name)
    hint = options.hint(name)
    if isinstance(error, ValidationError) and hint is not None:
        return describe.refused(name, error.value, f"expected {describe.expectation(hint)}", where)
    return f"{name}: {_first_line(error)}" + (f" ({where})" if where else "")


def _unknown_option(name: str, file: str | None, origins: Mapping[str, str]) -> str:
    if file is not None and file.startswith(f"{name}/"):  # Hydra puts what a group's file holds under the group's name
        return f"{file}: its first line has to be `# @package _global_`"
    where = file or origins.get(name)
    full = options.canonical(name)
    known = [] if "." in name else [*options.TYPES, *files.groups()]
    meant = f" (did you mean {full}?)" if full != name else describe.nearest(name, known)
    if advice := later.advice(name):
        meant = f" ({advice})"
    return f"unknown option {name}{meant}" + (f" ({where})" if where else "")

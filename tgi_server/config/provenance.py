"""Which YAML file each value came from, read off the files that Hydra puts together."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

from hydra._internal.defaults_list import DefaultsList
from hydra.core.config_loader import ConfigLoader
from hydra.core.default_element import ResultDefault
from hydra.plugins.config_source import ConfigSource
from omegaconf import DictConfig, OmegaConf

from tgi_server.config import files, parts
from tgi_server.config.describe import refused
from tgi_server.config.options import TYPES, inner_type
from tgi_server.errors import UsageError


def origins_in_files(loader: ConfigLoader, defaults: DefaultsList) -> dict[str, str]:
    """For each option, part and part's field that a file sets, the last file: `group file conf/batching/x.yaml`.

    A part is set by who chose it: the file whose defaults list overrides the choice, where there is one.

    Raises:
        UsageError: YAML has read a text as a number, or a value is OmegaConf's `???`, which would count as not given.
    """
    choosers = {group: meta.containing_config_path for group, meta in defaults.overrides.override_metadata.items()}
    origins: dict[str, str] = {}
    for default in defaults.defaults:
        for name, value in _content(loader, default):
            chooser = choosers.get(name)  # of a part; options are not chosen
            origins[name] = _label(loader, chooser or str(default.config_path))
            if inner_type(TYPES.get(name)) is str and isinstance(value, float):  # a commit like 5e1234 would be lost
                raise UsageError(refused(name, value, "YAML reads it as a number; put it in quotes", origins[name]))
            if value == "???":
                raise UsageError(refused(name, value, "stands for a value that is still to be given", origins[name]))
    return origins


def chosen_by_a_file(defaults: DefaultsList, group: str) -> str | None:
    """The choice of `group` where a YAML file made it, not an override."""
    metadata = defaults.overrides.override_metadata.get(group)
    return None if metadata and metadata.external_override else defaults.overrides.known_choices.get(group)


def _content(loader: ConfigLoader, default: ResultDefault) -> Iterator[tuple[str, Any]]:
    """What a file sets: the top-level keys, a part where the file names its target, and a part's fields."""
    path = str(default.config_path)
    source = None if path.startswith("hydra/") else _source(loader, path)  # Hydra's own settings are no options
    if source is None or source.scheme() == "structured":  # the schema, not a file
        return
    content = source.load_config(path).config
    if not isinstance(content, DictConfig):
        return
    values = cast(dict[str, Any], OmegaConf.to_container(content))  # as written, without interpolation
    for name, value in ({default.package: values} if default.package else values).items():
        if name in parts.PARTS and isinstance(value, dict):
            yield from ((name if key == "_target_" else f"{name}.{key}", inner) for key, inner in value.items())
        elif name != "defaults":
            yield name.partition(".")[0], value


def _source(loader: ConfigLoader, path: str) -> ConfigSource | None:
    """Where the file is: the first source that has it."""
    return next((source for source in loader.get_sources() if source.is_config(path)), None)


def _label(loader: ConfigLoader, path: str) -> str:
    group = path.rpartition("/")[0]
    kind = {"": "file", "deployment": "deployment file"}.get(group, "group file")
    source = _source(loader, path)
    directory = source.path if source else ""
    shown = files.directory().name if directory == str(files.directory()) else directory
    return f"{kind} {shown}/{path.removesuffix('.yaml')}.yaml"

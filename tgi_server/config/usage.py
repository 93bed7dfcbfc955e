"""The text of `--help`, made from the schema and the choices in `conf/`."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from dataclasses import Field, fields
from enum import Enum
from typing import Any

from tgi_server.config import files
from tgi_server.config.describe import TYPES, inner_type, shown
from tgi_server.config.schema import ServerConfig, without_variable

_WIDTH = 100
_METAVARS = {int: "N", float: "X", str: "TEXT"}
_HEAD = """\
Usage: python -m tgi_server [--name VALUE | name=VALUE]...

Serves a text generation model over HTTP, or measures a server under load (--job bench). Every option has
three spellings: --max-input-length 10, max_input_length=10, and MAX_INPUT_LENGTH=10 in the environment (the
load generator's have the first two). The command line wins over the environment, that over the YAML files.
"""
_TAIL = """\
Other:
      --config-dir DIR, -cd DIR
          A directory of your own YAML files, searched before the server's.
      --config-name NAME, -cn NAME
          The YAML file to start from. [default: config]
      --cfg job, -c job
          Print the composed configuration as YAML and exit.
  -h, --help
  -V, --version
"""


def text() -> str:
    """The whole help text."""
    sections = [_section(group) for group in ServerConfig.__bases__]
    return "\n".join([_HEAD, *sections, _choices(), _TAIL])


def _section(group: type) -> str:
    return f"{_title(group)}:\n" + "".join(_entry(field) for field in fields(group))


def _title(group: type) -> str:
    return (group.__doc__ or "").strip().splitlines()[0].rstrip(".")


def _entry(field: Field[Any]) -> str:
    short = "-p, " if field.name == "port" else ""
    flag = f"{short or '    '}--{field.name.replace('_', '-')}{_metavar(field.name)}"
    notes = [] if field.default is None else [f"[default: {shown(field.default)}]"]
    if variable := _variable(field.name):
        notes.append(variable)
    return f"  {flag}\n{_indented(' '.join([field.metadata['help'], *notes]))}\n"


def _variable(name: str) -> str:
    return "" if name in without_variable() else f"[env: {name.upper()}]"


def _metavar(name: str) -> str:
    kind = inner_type(TYPES[name])
    if kind is bool:
        return "" if TYPES[name] is bool else " true|false"
    return " " + ("|".join(kind.__members__) if issubclass(kind, Enum) else _METAVARS[kind])


def _choices() -> str:
    """The groups of YAML files, each with its choices."""
    return "Choices, each a YAML file that sets some of the options above, or puts in a part:\n" + "".join(
        f"      --{group} {'|'.join(names)}\n{note}" for group, names, note in _groups()
    )


def _groups() -> Iterator[tuple[str, list[str], str]]:
    parts = {field.name: field.metadata["help"] for field in fields(ServerConfig) if field.name not in TYPES}
    for group, names in files.groups().items():
        note = f"{parts[group]} {_variable(group)}".rstrip() if group in parts else ""
        yield group, names, f"{_indented(note)}\n" if note else ""


def _indented(paragraph: str) -> str:
    indent = " " * 10
    return textwrap.fill(paragraph, _WIDTH, initial_indent=indent, subsequent_indent=indent, break_long_words=False)

"""The texts of `--help` and `-h`, made from the schema and the choices in `conf/`."""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from enum import Enum
from typing import Any

from tgi_server.config import files, options, parts
from tgi_server.config.describe import shown
from tgi_server.config.options import inner_type, is_list
from tgi_server.config.schema import ServerConfig, without_variable

_WIDTH = 100
_SUMMARY_WIDTH = 120
_COLUMN = 38
_MANY = 10
"""Fields that a part inherits from which on they are not told again."""
_METAVARS = {int: "N", float: "X", str: "TEXT"}
_TYPES = {int: "whole number", float: "number", str: "text"}
_HEAD = """\
Usage: text-generation-launcher [--name VALUE | name=VALUE]...   (or python -m tgi_server ...)

Serves a text generation model over HTTP, or measures a server under load (--job bench). Every option has
three spellings: --max-input-length 10, max_input_length=10, and MAX_INPUT_LENGTH=10 in the environment. The
command line wins over the environment, that over the YAML files. The fields of a job have the first two, those
of other parts only name=value, and both belong to the choices named beside their title.
"""
OTHER = [
    ("    --config-dir DIR, -cd DIR", "A directory of your own YAML files, searched before the server's."),
    ("    --config-name NAME, -cn NAME", "The YAML file to start from. [default: config]"),
    ("    --cfg job|hydra|all, -c job", "Print the composed configuration, or Hydra's settings, as YAML and exit."),
    ("    --resolve", "With --cfg: replace ${...} by what it stands for."),
    (
        "    --info [TOPIC], -i [TOPIC]",
        "Print how Hydra composes: config, defaults, defaults-tree, plugins, searchpath, all.",
    ),
    ("    --multirun, -m", "Run the job for every combination of the values in name=a,b, one after the other."),
    ("    --shell-completion, -sc install=SHELL", "Print what makes bash, zsh or fish complete options and choices."),
    ("-e, --env", "Log versions, devices, kernels and the whole configuration, then start."),
    ("-h, --help", "Print help, -h a summary of it."),
    ("-V, --version", "Print the version."),
]


"""Flags that set no option, and what they do."""


@dataclass(frozen=True)
class Entry:
    """What help and documentation say about one option.

    Attributes:
        flag: as it is written, with what stands for the value.
        help: what it does.
        allowed: what may be written.
        default: as it would be written; empty when the option is unset.
        variable: its environment variable, or empty.
        concerns: who has to be started anew when it changes.
    """

    flag: str
    help: str
    allowed: str
    default: str
    variable: str
    concerns: tuple[str, ...]


def text(long: bool) -> str:
    """The help text: whole, or one line an option."""
    sections = [f"{title}:\n" + "".join(_shown(entry, long) for entry in entries) for title, entries in groups()]
    other = "Other:\n" + "".join(_block(flag, help, long) for flag, help in OTHER)
    return "\n".join([_HEAD, *sections, _choices(long), other]).rstrip("\n")


def groups() -> Iterator[tuple[str, list[Entry]]]:
    """The title of each group of options, and its options; then those of the parts that have fields."""
    for group in options.groups():
        yield (
            _title(group),
            [_entry(field.name, getattr(ServerConfig(), field.name), field.metadata) for field in fields(group)],
        )
    for name in parts.TYPED:
        users: dict[str, list[str]] = {}
        for choice, path in parts.choices(name).items():
            users.setdefault(path, []).append(choice)
        for number, (path, choices) in enumerate(users.items()):
            base, inherited = _inherited(path, list(users)[:number])
            own = {field: known for field, known in parts.fields_of(path).items() if field not in inherited}
            also = f", and what {name}={users[base][0]} has{_but(base, path)}" if base else ""
            if own:
                title = f"{_title(parts.target(path))} ({name}={', '.join(choices)}{also})"
                yield title, [_entry(f"{name}.{field}", known.default, known.metadata) for field, known in own.items()]


def _inherited(path: str, others: Sequence[str]) -> tuple[str | None, Collection[str]]:
    """The other target with which this one shares most fields, and these, where they are too many to be told twice."""
    fields = parts.fields_of(path)
    found: tuple[str | None, Collection[str]] = (None, ())
    for other in others:
        its = parts.fields_of(other)
        same = [name for name in fields if name in its and fields[name].metadata is its[name].metadata]
        if len(same) >= max(_MANY, len(found[1]) + 1):
            found = other, same
    return found


def _but(base: str, path: str) -> str:
    missing = [field for field in parts.fields_of(base) if field not in parts.fields_of(path)]
    return f" but {', '.join(missing)}" if missing else ""


def _title(kind: type) -> str:
    return (kind.__doc__ or "").strip().splitlines()[0].rstrip(".")


def choices() -> Iterator[tuple[str, list[str], str, str]]:
    """Each group of YAML files: its name, its choices, what it decides where it puts in a part, and its variable."""
    for group, names in files.groups().items():
        part = parts.PARTS.get(group)
        yield group, names, part["help"] if part else "", _variable(group) if part else ""


def _entry(name: str, default: Any, metadata: Mapping[str, Any]) -> Entry:
    """Fields of several parts may share a name, and yet each has a help text of its own: so that is given."""
    hint = options.hint(name)
    return Entry(
        flag=_flag(name, hint),
        help=metadata["help"],
        allowed=" or ".join([_allowed(hint, metadata["minimum"], metadata["maximum"]), *metadata["words"]]),
        default=shown(default) if default not in (None, []) else "",
        variable=_variable(name),
        concerns=options.concerns(name),
    )


def _flag(name: str, hint: Any) -> str:
    """The spelling as a flag where there is one, else as an override."""
    short = options.short(name)
    if "." in short:
        return f"{short}={_metavar(hint)}"
    value = "" if options.is_switch(name) else f" {_metavar(hint)}"
    return f"{'-p, ' if name == 'port' else ''}--{short.replace('_', '-')}{value}"


def _variable(name: str) -> str:
    return "" if name in without_variable() or "." in name else name.upper()


def _metavar(hint: Any) -> str:
    kind = inner_type(hint)
    if kind is bool:
        return "true|false"
    return "|".join(kind.__members__) if issubclass(kind, Enum) else _METAVARS[kind]


def _allowed(hint: Any, low: float | None, high: float | None) -> str:
    kind = inner_type(hint)
    if kind is bool or issubclass(kind, Enum):
        return "true, false" if kind is bool else ", ".join(kind.__members__)
    words = _TYPES[kind] + ("s" if is_list(hint) else "")
    if low is not None:
        words += f", {low} to {high}" if high is not None else f", at least {low}"
    return words


def _shown(entry: Entry, long: bool) -> str:
    flag = entry.flag if entry.flag.startswith("-p") else f"    {entry.flag}"
    default = f"[default: {entry.default}]" if entry.default else ""
    if not long:
        return _block(flag, entry.help.partition(". ")[0], long, default)
    said = "|" in entry.flag or entry.allowed in _TYPES.values()  # by what stands for the value
    notes = ["" if said else f"[{entry.allowed}]", default, f"[env: {entry.variable}]" if entry.variable else ""]
    return _block(flag, " ".join(filter(None, [entry.help, *notes])), long)


def _block(flag: str, help: str, long: bool, note: str = "") -> str:
    """The flag and its help below it, or what fits of it beside it."""
    if long:
        return f"  {flag}\n{_indented(help)}\n"
    room = _SUMMARY_WIDTH - max(len(flag), _COLUMN) - len(note) - 4
    return f"  {flag:{_COLUMN}} {textwrap.shorten(help, room, placeholder=' …')} {note}".rstrip() + "\n"


def _choices(long: bool) -> str:
    """The groups of YAML files, each with its choices."""
    title = "Choices, each a YAML file that sets some of the options above, or puts in a part:\n"
    return title + "".join(_choice(*choice, long) for choice in choices())


def _choice(group: str, names: list[str], help: str, variable: str, long: bool) -> str:
    line = f"      --{group} {'|'.join(names)}\n"
    note = f"{help} [env: {variable}]" if variable else help
    return line + (f"{_indented(note)}\n" if long and note else "")


def _indented(paragraph: str) -> str:
    indent = " " * 10
    return textwrap.fill(paragraph, _WIDTH, initial_indent=indent, subsequent_indent=indent, break_long_words=False)

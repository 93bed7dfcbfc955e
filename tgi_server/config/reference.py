"""docs/options.md, made from the same source as `--help`: `python -m tgi_server.config.reference`."""

from __future__ import annotations

from collections.abc import Iterator

from tgi_server.config import usage

_HEAD = """\
# Options

Written by `scripts/write-options`; change `tgi_server/config/schema.py`, the classes of parts or `conf/` instead.

Each option has one name and three spellings: the flag, the override `name=value`, where the name has underscores, and
the environment variable. Strongest first: command line, environment, deployment file, group file, default.

The last groups are the fields of parts: they exist where one of the choices beside the title is chosen. In YAML files
they stand below their part (`attention: {library: torch}`), as an override they are written `attention.library=torch`.
Those of a job have short names too (`clients=8` and `--clients 8` for `job.clients=8`). No environment variable sets
them.

The last column says who has to be started anew when an option changes: the launcher (and all with it), the shards, the
router, or only the job that is done with the server.
"""


def markdown() -> str:
    """The whole page."""
    return "\n".join([_HEAD, *_options(), *_choices(), *_other()])


def _options() -> Iterator[str]:
    for title, entries in usage.groups():
        rows = (
            f"| `{_escaped(entry.flag)}` | {entry.allowed} | {_code(entry.default)} | {_code(entry.variable)} "
            f"| {_escaped(entry.help)} | {', '.join(entry.concerns)} |\n"
            for entry in entries
        )
        head = "| flag | values | default | environment | | concerns |\n|---|---|---|---|---|---|\n"
        yield f"## {title}\n\n{head}{''.join(rows)}"


def _choices() -> Iterator[str]:
    yield (
        "## Choices\n\nEach is a YAML file in `conf/` (or in the directory of `--config-dir`) that sets some of the "
        "options above, or puts in a part.\n"
    )
    rows = (
        f"| `--{group}` | {', '.join(f'`{name}`' for name in names)} | {_code(variable)} | {_escaped(help)} |\n"
        for group, names, help, variable in usage.choices()
    )
    yield "| flag | choices | environment | |\n|---|---|---|---|\n" + "".join(rows)


def _other() -> Iterator[str]:
    yield "## Flags that set no option\n"
    yield "| flag | |\n|---|---|\n" + "".join(
        f"| `{_escaped(flag.strip())}` | {_escaped(help)} |\n" for flag, help in usage.OTHER
    )


def _code(text: str) -> str:
    return f"`{text}`" if text else ""


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    print(markdown(), end="")

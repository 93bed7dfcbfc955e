"""LOG_LEVEL as programs in Rust read it: `info,text_generation_router=debug`. Stdlib only."""

from __future__ import annotations

import re
from collections.abc import Sequence

from tgi_server.config.later import Means, Outcome, Told
from tgi_server.config.schema import LogLevel

_SPELLED = {
    "5": "trace", "4": "debug", "3": "info", "2": "warn", "1": "error", "0": "error", "off": "error", "none": "error",
    "warning": "warn", "err": "error", "critical": "error", "fatal": "error",
}  # fmt: skip
"""Other ways to write a level; where nothing is to be written, what is left is least."""
_PROCESSES = {
    "text_generation_launcher": "launcher",
    "text_generation_router": "router",
    "text_generation_server": "shard",
    "launcher": "launcher",
    "router": "router",
    "shard": "shard",
}


def read(text: str) -> Sequence[Outcome]:
    """A filter: a level, levels of single processes and modules (log_levels), and a line on what is left out."""
    outcomes: list[Outcome] = []
    left_out: list[str] = []
    for directive in filter(None, map(str.strip, re.split(r",(?![^\[]*\])", text))):
        found = _directive(directive)
        if found is None:
            left_out.append(directive)
        else:
            outcomes.append(found)
    if left_out:
        outcomes.append(Told(f"{', '.join(left_out)} is left out, neither a level nor a part of this server"))
    return outcomes


def _directive(text: str) -> Outcome | None:
    """One directive; None where it is about something that is not there, or cannot be read."""
    target, equals, level = text.rpartition("=")
    name = _SPELLED.get(level.lower().strip(), level.lower().strip())
    if name not in LogLevel.__members__:
        return None
    if not equals:
        return Means("log_level", name)
    process = ours(target)
    return Means("log_levels", f"{process}={name}") if process else None


def ours(target: str) -> str | None:
    """The process or module of ours that a filter names; None where it is another's."""
    path = target.strip().lower().replace("::", ".")
    crate = path.partition(".")[0]
    return path if re.fullmatch(r"tgi_server(\.\w+)*", path) else _PROCESSES.get(crate)

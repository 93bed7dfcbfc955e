"""Where the served model and this program come from; `/info` and `--env` tell it. Stdlib only."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import tgi_server

_NOTE = ".tgi_server.json"
"""Lies beside the snapshots of a model in the hub cache, where other programs pass it over."""


@dataclass(frozen=True)
class Model:
    """A model on this machine.

    Attributes:
        directory: what is served.
        sha, pipeline_tag: the hub's commit and tag; None where it is not from there, or not known.
        adapter: holds changes that the shards make to the weights.
        heads: holds what the shards guess tokens ahead by.
    """

    directory: Path
    sha: str | None = None
    pipeline_tag: str | None = None
    adapter: Path | None = None
    heads: Path | None = None


def note(snapshot: Path, pipeline_tag: str | None) -> None:
    """Keep the hub's answer beside the model, so that a start from the cache behaves alike and asks nobody."""
    _note_of(snapshot).write_text(json.dumps({"pipeline_tag": pipeline_tag}))


def from_hub(directory: Path, snapshot: Path) -> Model:
    """The model in `directory`, made out of this snapshot in the hub cache."""
    return Model(directory, snapshot.name, _noted_tag(_note_of(snapshot)))


def _note_of(snapshot: Path) -> Path:
    return snapshot.parent.parent / _NOTE


def _noted_tag(path: Path) -> str | None:
    try:
        tag = json.loads(path.read_text())["pipeline_tag"]
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return tag if isinstance(tag, str) else None


def program_commit(environ: Mapping[str, str], root: Path = Path(tgi_server.__file__).parents[1]) -> str | None:
    """The commit of this program: what a container image says (GIT_SHA), else that of the checkout it runs in."""
    return environ.get("GIT_SHA") or _checked_out(root / ".git")


def docker_label(environ: Mapping[str, str]) -> str | None:
    """The name that a container image gives itself (DOCKER_LABEL)."""
    return environ.get("DOCKER_LABEL") or None


def _checked_out(git: Path) -> str | None:
    """What HEAD points at, read without git, which may be missing or refuse the checkout of another user."""
    try:
        head = (git / "HEAD").read_text().strip()
        reference = head.removeprefix("ref: ")
        if reference == head:
            return head
        if (git / reference).is_file():
            return (git / reference).read_text().strip()
        packed = re.search(rf"^(\w+) {re.escape(reference)}$", (git / "packed-refs").read_text(), re.MULTILINE)
    except (OSError, ValueError):
        return None
    return packed[1] if packed else None

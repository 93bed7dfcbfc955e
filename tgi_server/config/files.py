"""Where the YAML files of the configuration are, and what can be chosen among them. Stdlib only."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent.parent


def directory() -> Path:
    """`conf/` inside the installed package, else the one of the checkout."""
    shipped = _PACKAGE / "conf"
    return shipped if shipped.is_dir() else _PACKAGE.parent / "conf"


def groups() -> dict[str, list[str]]:
    """The choices of every group, `{"batching": ["default", "latency", ...], ...}`, both sorted by name."""
    choices: dict[str, list[str]] = {}
    for path in sorted(directory().glob("*/*.yaml")):
        choices.setdefault(path.parent.name, []).append(path.stem)
    return choices

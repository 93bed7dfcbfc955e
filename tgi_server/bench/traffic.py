"""Traffics of the load generator: those that come with the package, and files (`tgi_server.traffic`)."""

from __future__ import annotations

from pathlib import Path

from tgi_server.errors import UsageError
from tgi_server.traffic import Asked, Traffic, read, write

__all__ = ["SHIPPED", "Asked", "Traffic", "find", "read", "write"]

SHIPPED = Path(__file__).parent / "traffics"


def find(name: str) -> Traffic:
    """A shipped traffic by its name, or that of a file. Raises UsageError."""
    shipped = sorted(path.stem for path in SHIPPED.glob("*.jsonl"))
    if name in shipped:
        return read(SHIPPED / f"{name}.jsonl")
    path = Path(name).expanduser()
    if path.name == name and not path.exists():
        raise UsageError(f"traffic={name}: no such file, and none of {', '.join(shipped)}")
    return read(path)

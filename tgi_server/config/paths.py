"""Directories that the environment decides on."""

from __future__ import annotations

import os
from pathlib import Path


def cache_home() -> Path:
    """The user's cache directory: XDG_CACHE_HOME where it is set and absolute, else ~/.cache."""
    path = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return path if path.is_absolute() else Path("~/.cache").expanduser()

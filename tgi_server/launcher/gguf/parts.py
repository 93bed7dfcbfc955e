"""The files of a model that is split, by their names. Stdlib only."""

from __future__ import annotations

import re
from pathlib import Path

_PART = re.compile(r"-(\d{5})-of-(\d{5})$")


def parts(path: Path) -> list[Path]:
    """All parts of the model that a file is one of (NAME-00001-of-00003.gguf), whether they exist or not, in order."""
    found = _PART.search(path.stem)
    if found is None or not 0 < int(found[1]) <= int(found[2]):
        return [path]
    start, count = path.stem[: found.start()], int(found[2])
    return [path.with_name(f"{start}-{number:05d}-of-{count:05d}{path.suffix}") for number in range(1, count + 1)]

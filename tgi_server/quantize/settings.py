"""What a checkpoint says of how it was quantised, wherever it says so. Stdlib only."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tgi_server.errors import ConfigError, ModelError

PLACES = (
    ("config.json", "quantization_config"),
    ("config.json", "compression_config"),
    ("quantize_config.json", None),
    ("quant_config.json", None),
)
"""Files of a model, and the entry of each that holds the settings; None for the whole file."""
TENSORS = {"gptq_bits": "bits", "gptq_groupsize": "group_size"}
"""Tensors of one number in which text-generation-inference kept what its own `quantize` had done, and the entries that
they stand for."""
LOOKED_AT = "tensors gptq_bits and gptq_groupsize, {}".format(
    ", ".join(file if entry is None else f"{entry} in {file}" for file, entry in PLACES)
)
"""All places, for people."""
_SPELLED = {"w_bit": "bits", "q_group_size": "group_size", "num_bits": "bits"}
"""Other names of entries."""


@dataclass(frozen=True)
class Settings:
    """What one of `PLACES` holds.

    Attributes:
        place: which one, for people.
        entries: as they are, under their usual names.
    """

    place: str
    entries: Mapping[str, Any]

    @property
    def method(self) -> str:
        """The name of the method, in lower case."""
        named = self.entries.get("quant_method")
        if named is not None:
            return str(named).lower()
        if "load_in_8bit" in self.entries or "load_in_4bit" in self.entries:
            return "bitsandbytes"
        return "awq" if str(self.entries.get("version", "")).lower() in ("gemm", "gemv") else "gptq"

    def number(self, name: str) -> int | None:
        """A whole number; None where it is not told. Raises ModelError for anything else."""
        value = self.entries.get(name)
        if value is None or (isinstance(value, int) and not isinstance(value, bool)):
            return value
        raise ModelError(f"{self.place}: {name} is {json.dumps(value)}, not a whole number")


def read(directory: Path, numbers: Mapping[str, int] | None = None) -> Settings | None:
    """The settings of the checkpoint in `directory`; None where it has none. Raises ModelError for unreadable files.

    Args:
        numbers: what those of `TENSORS` hold that the checkpoint has. They come before what a file says of the same.
    """
    found = next(_all(directory), None)
    if not numbers:
        return found
    place = f"{directory}: tensors {', '.join(numbers)}" + (f"; {found.place}" if found else "")
    # It was always asymmetric, and of no other method.
    rest = {"quant_method": "gptq", "sym": False} if found is None else found.entries
    return Settings(place, {**rest, **{TENSORS[name]: number for name, number in numbers.items()}})


def refuse_quantised(method: str, settings: Settings | None) -> None:
    """Raise ConfigError for a checkpoint that is quantised, by a method that quantises what is not."""
    if settings is not None:
        raise ConfigError(
            f"quantize={method} needs weights that are not quantised, and these are, by {settings.method} "
            f"({settings.place}); leave quantize out"
        )


def _all(directory: Path) -> Iterator[Settings]:
    for file, entry in PLACES:
        path = directory / file
        if not path.is_file():
            continue
        found = _object(path)
        if entry is not None and found.get(entry) is None:
            continue
        settings = found if entry is None else found[entry]
        place = str(path) if entry is None else f"{path}: {entry}"
        if not isinstance(settings, dict):
            raise ModelError(f"{place} does not hold a JSON object")
        yield Settings(place, {_SPELLED.get(name, name): value for name, value in settings.items()})


def _object(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError, OSError) as error:
        raise ModelError(f"{path} cannot be read: {error}") from None
    if not isinstance(content, dict):
        raise ModelError(f"{path} does not hold a JSON object")
    return content

"""Is a model directory complete and undamaged? Reads headers only, so it takes milliseconds for any size."""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import Path

from tgi_server.errors import ModelError
from tgi_server.models.files import PICKLES, SAFETENSORS, are_pickles, file_names, headers, json_object, weight_names

DESCRIPTIONS = ("*.json", "*.jinja", "tokenizer*")
"""The files beside the weights: configuration, tokenizer, chat template."""


def check(directory: Path) -> None:
    """Look at the configuration, the tokenizer and every weight file of a model.

    Raises:
        ModelError: names the file that is missing or damaged, or the weights are .bin files.
    """
    check_description(directory)
    headers(directory)


def check_description(directory: Path) -> None:
    """Look at the configuration and the tokenizer only; raises ModelError."""
    json_object(directory / "config.json")
    if not (directory / "tokenizer.json").is_file():
        raise ModelError(f"{directory} has no tokenizer.json")


def is_complete(directory: Path) -> bool:
    """Whether nothing is missing, damaged files included; of .bin files only whether they are there."""
    try:
        check_description(directory)
        if not are_pickles(weight_names(directory)):
            check(directory)
    except (ModelError, OSError):
        return False
    return True


def description_names(directory: Path) -> list[str]:
    """The files beside the weights that are there."""
    indexes = (SAFETENSORS.index_file, PICKLES.index_file)
    return [
        name
        for name in file_names(directory)
        if name not in indexes and any(fnmatchcase(name, pattern) for pattern in DESCRIPTIONS)
    ]

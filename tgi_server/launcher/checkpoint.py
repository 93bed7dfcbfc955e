"""Is a model directory complete and undamaged? Reads headers only, so it takes milliseconds for any size."""

from __future__ import annotations

from collections.abc import Collection
from fnmatch import fnmatchcase
from pathlib import Path

from tgi_server.errors import ModelError
from tgi_server.launcher.based import kind_of
from tgi_server.models import medusa
from tgi_server.models.files import PICKLES, SAFETENSORS, are_pickles, file_names, headers, json_object, weight_names

_HEADS = (medusa.WEIGHTS, medusa.PICKLE)
"""Files of what guesses tokens ahead, the preferred one first."""
TOKENIZER = "tokenizer.json"
VOCABULARIES = ("tokenizer.model", "spiece.model", "*.bpe.model", "*.tiktoken", "vocab.json", "vocab.txt")
"""What a tokenizer.json can be made of; of several the first counts."""
_TOKENIZER_FILES = (
    "tokenizer*", *VOCABULARIES, "merges.txt", "added_tokens.json", "special_tokens_map.json", "chat_template*",
)  # fmt: skip
DESCRIPTIONS = ("*.json", "*.jinja", *_TOKENIZER_FILES)
"""The files beside the weights: configuration, tokenizer, chat template."""
CODE = "*.py"
"""Code that a model may bring, named in its config.json."""


def check(directory: Path) -> None:
    """Look at the configuration, the tokenizer and every weight file of a model.

    Raises:
        ModelError: names the file that is missing or damaged, or the weights are .bin files.
    """
    check_description(directory)
    headers(directory)


def check_description(directory: Path) -> None:
    """Look at the configuration and the tokenizer only; raises ModelError."""
    if (kind := kind_of(directory)) is not None:
        json_object(directory / kind.config)
        return
    json_object(directory / "config.json")
    if not has_tokenizer(directory):
        raise ModelError(f"{directory} has no {TOKENIZER}, nor a file to make one of: {', '.join(VOCABULARIES)}")


def has_tokenizer(directory: Path) -> bool:
    """Whether there is a tokenizer, or what one can be made of."""
    return (directory / TOKENIZER).is_file() or vocabulary(directory) is not None


def vocabulary(directory: Path) -> str | None:
    """The file that a tokenizer.json can be made of; None when there is none."""
    names = file_names(directory)
    found = (name for pattern in VOCABULARIES for name in names if fnmatchcase(name, pattern))
    return next(found, None)


def wanted_weights(directory: Path, names: Collection[str] | None = None) -> list[str]:
    """As `files.weight_names`, for what is served on top of a model too; heads beside a model's weights are wanted."""
    kind, present = kind_of(directory), file_names(directory) if names is None else names
    if kind is None:
        heads = own_heads(directory, present)
        return [*weight_names(directory, names), *([] if heads is None else [heads])]
    for name in (kind.weights, kind.pickle):
        if name in present:
            return [name]
    raise ModelError(f"{directory} has no {kind.weights}, nor {kind.pickle} to be converted")


def own_heads(directory: Path, names: Collection[str]) -> str | None:
    """The file of `names` that holds heads which guess for the model in a directory; None for none."""
    if not medusa.announced(directory):
        return None
    return next((name for name in _HEADS if name in names), None)


def is_complete(directory: Path) -> bool:
    """Whether nothing is missing, damaged files included; of .bin files only whether they are there."""
    try:
        check_description(directory)
        if kind_of(directory) is not None:
            wanted_weights(directory)
        elif not are_pickles(weight_names(directory)):
            check(directory)
    except (ModelError, OSError):
        return False
    return True


def tokenizer_names(directory: Path) -> list[str]:
    """The files of the tokenizer and its chat template."""
    return [name for name in file_names(directory) if any(fnmatchcase(name, pattern) for pattern in _TOKENIZER_FILES)]


def missing_code(directory: Path) -> list[str]:
    """The Python files that auto_map in config.json names and that are not there."""
    named = json_object(directory / "config.json").get("auto_map")
    names = named.values() if isinstance(named, dict) else []
    files = {f"{name.partition('.')[0]}.py" for name in names if isinstance(name, str) and "--" not in name}
    return sorted(name for name in files if not (directory / name).is_file())


def description_names(directory: Path) -> list[str]:
    """The files beside the weights that are there."""
    indexes = (SAFETENSORS.index_file, PICKLES.index_file)
    return [
        name
        for name in file_names(directory)
        if name not in indexes and any(fnmatchcase(name, pattern) for pattern in (*DESCRIPTIONS, CODE, *_HEADS))
    ]

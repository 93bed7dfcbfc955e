"""Model directories whose weights come from another place than their configuration and tokenizer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tgi_server.errors import ModelError
from tgi_server.launcher import checkpoint, conversions, job
from tgi_server.launcher.job import Report
from tgi_server.models.files import SAFETENSORS, are_pickles, weight_names


def unpickled(directory: Path, conversion_cache: str | None, report: Report, look: Callable[[Path], object]) -> Path:
    """`directory` itself, or where its weights are .bin files one with safetensors instead, converted once.

    `look` is called before anything is converted.

    Raises:
        ModelError: the model is not served, or a file is damaged or wants to run code.
    """
    names = weight_names(directory)
    if not are_pickles(names):
        return directory
    target = conversions.of_pickles(directory, names, conversion_cache)
    if not target.is_dir():
        look(directory)
        job.run("tgi_server.launcher.unpickle", str(directory), str(target), *names, report=report)
    return _joined(directory, target, conversion_cache, report)


def overridden(override: str, described: Callable[[], Path], conversion_cache: str | None, report: Report) -> Path:
    """The directory `override`, or where it holds weights only, one that joins it with the model's other files.

    Args:
        override: where the weights are.
        described: finds the directory with configuration and tokenizer.
        conversion_cache: the option of this name.
        report: told when this takes long.

    Raises:
        ModelError: there are no weights in it that can be used as they are.
    """
    weights = conversions.expanded(override).absolute()
    if not weights.is_dir():
        raise ModelError(f"weights_cache_override={override}: there is no such directory")
    if are_pickles(weight_names(weights)):
        raise ModelError(f"weights_cache_override={override}: it holds .bin files only, and nothing is converted there")
    if {"config.json", "tokenizer.json"} <= set(checkpoint.description_names(weights)):
        return weights
    return _joined(described(), weights, conversion_cache, report)


def _joined(description: Path, weights: Path, conversion_cache: str | None, report: Report) -> Path:
    """A directory of links to the files beside the weights in the one and to the weights in the other."""
    links = {name: description.absolute() / name for name in checkpoint.description_names(description)}
    links |= {name: weights / name for name in weight_names(weights)}
    if (weights / SAFETENSORS.index_file).is_file():
        links[SAFETENSORS.index_file] = weights / SAFETENSORS.index_file
    identity = "\n".join(f"{name} {place}" for name, place in links.items())
    target = conversions.place("joined", description.name, identity, conversion_cache)

    def write(directory: Path) -> None:
        for name, place in links.items():
            (directory / name).symlink_to(place)

    if not target.is_dir():
        conversions.build(target, write, report)
    return target

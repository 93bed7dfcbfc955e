"""Model directories whose weights or tokenizer come from another place than their configuration."""

from __future__ import annotations

from collections.abc import Callable, Mapping
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
        _unpickle(directory, names, target, report)
    return _linked(directory, _descriptions(directory) | _weights(target), conversion_cache, report)


def unpickled_file(directory: Path, name: str, wanted: str, conversion_cache: str | None, report: Report) -> Path:
    """The same for the one file of an adapter or heads, which is called `wanted` then; raises ModelError."""
    if name == wanted:
        return directory
    target = conversions.of_pickles(directory, [name], conversion_cache)
    if not target.is_dir():
        _unpickle(directory, [name], target, report)
    (converted,) = weight_names(target)
    links = {**_descriptions(directory), wanted: target / converted}
    return _linked(directory, links, conversion_cache, report)


def with_tokenizer(directory: Path, conversion_cache: str | None, report: Report) -> Path:
    """`directory` itself, or where it has no tokenizer.json one with a tokenizer.json made of what it has, once.

    Raises:
        ModelError: none can be made; says why.
    """
    tokenizer = tokenizer_of(directory, conversion_cache, report)
    if tokenizer.parent == directory:
        return directory
    return _linked(directory, {**_contents(directory), checkpoint.TOKENIZER: tokenizer}, conversion_cache, report)


def tokenizer_of(directory: Path, conversion_cache: str | None, report: Report) -> Path:
    """The tokenizer.json of a model, of which nothing else needs to be there but config.json; made where it has none.

    Raises:
        ModelError: none can be made; says why.
    """
    if (directory / checkpoint.TOKENIZER).is_file():
        return directory / checkpoint.TOKENIZER
    checkpoint.check_description(directory)
    sources = [directory / name for name in ("config.json", *checkpoint.tokenizer_names(directory))]
    target = conversions.of_tokenizer(directory, sources, conversion_cache)
    if not target.is_dir():
        vocabulary = checkpoint.vocabulary(directory)
        if vocabulary is None:  # an adapter's directory
            raise ModelError(f"{directory} has no {checkpoint.TOKENIZER}, nor a file to make one of")
        job.run("tgi_server.launcher.tokenizer", str(directory), vocabulary, str(target), report=report, extra=_OFFLINE)
    return target / checkpoint.TOKENIZER


def with_tokenizer_of(directory: Path, other: Path, conversion_cache: str | None, report: Report) -> Path:
    """`directory` with tokenizer and chat template of `other`, where it has a tokenizer."""
    if not checkpoint.has_tokenizer(other):
        return directory
    own = set(checkpoint.tokenizer_names(directory))
    links = {name: path for name, path in _contents(directory).items() if name not in own}
    links |= {name: other.absolute() / name for name in checkpoint.tokenizer_names(other)}
    return _linked(directory, links, conversion_cache, report)


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
    if (weights / "config.json").is_file() and checkpoint.has_tokenizer(weights):
        return weights
    description = described()
    return _linked(description, _descriptions(description) | _weights(weights), conversion_cache, report)


_OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "TIKTOKEN_CACHE_DIR": ""}
"""For what has all it needs in a directory; tiktoken would keep its files under their names, whatever is in them."""


def _unpickle(directory: Path, names: list[str], target: Path, report: Report) -> None:
    job.run("tgi_server.launcher.unpickle", str(directory), str(target), *names, report=report)


def _contents(directory: Path) -> dict[str, Path]:
    """All files of a model by name."""
    return _descriptions(directory) | _weights(directory)


def _descriptions(directory: Path) -> dict[str, Path]:
    """The files beside the weights by name."""
    return {name: directory.absolute() / name for name in checkpoint.description_names(directory)}


def _weights(directory: Path) -> dict[str, Path]:
    links = {name: directory.absolute() / name for name in weight_names(directory)}
    if (directory / SAFETENSORS.index_file).is_file():
        links[SAFETENSORS.index_file] = directory.absolute() / SAFETENSORS.index_file
    return links


def _linked(model: Path, links: Mapping[str, Path], conversion_cache: str | None, report: Report) -> Path:
    """A directory of links to these files; `model` is only for people."""
    identity = "\n".join(f"{name} {place}" for name, place in links.items())
    target = conversions.place("joined", model.name, identity, conversion_cache)

    def write(directory: Path) -> None:
        for name, place in links.items():
            (directory / name).symlink_to(place)

    if not target.is_dir():
        conversions.build(target, write, report)
    return target

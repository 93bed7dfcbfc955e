"""The tokenizer of a model on this machine, whatever form the model has. For programs that serve nothing."""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer

from tgi_server import tokenizer_file
from tgi_server.config.schema import ModelOptions
from tgi_server.errors import ModelError
from tgi_server.launcher import assemble, conversions, places
from tgi_server.launcher.gguf.reader import GgufFile
from tgi_server.launcher.gguf.tokenizer import build


def find(place: str) -> Tokenizer:
    """The tokenizer of `place`: a tokenizer.json, or a model as `model_id` names one, also one of the hub's that lies
    in its cache. Nothing is downloaded; where there is no tokenizer.json one is made, as for the server.

    Raises:
        ModelError: there is none.
    """
    path = conversions.expanded(place)
    if path.is_file() and path.suffix == ".json":
        return tokenizer_file.read(path)
    model = places.locate(place) or _cached(place)
    if model.is_file():
        return build(GgufFile(model))
    return tokenizer_file.read(assemble.tokenizer_of(model, None, _ignore))


def _cached(model_id: str) -> Path:
    try:
        return places.ask_hub("cached", ModelOptions(model_id=model_id), None, _ignore)
    except ModelError:
        raise ModelError(
            f"{model_id}: no such file or directory, nor a model whose tokenizer is in the hub cache"
        ) from None


def _ignore(stage: str, fraction: float) -> None:
    """Nobody is told."""

"""Download of a model from the hub, as a program: `python -m tgi_server.launcher.hub '[ID, REVISION, CACHE]'`.

A model that lies in the hub cache completely is used as it is, without one request.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
from huggingface_hub import constants, errors
from huggingface_hub.utils import logging as hub_logging
from huggingface_hub.utils import tqdm

from tgi_server.errors import ModelError
from tgi_server.launcher import checkpoint, job

_WANTED = ["*.safetensors", "*.json", "*.jinja", "tokenizer*"]
_UNWANTED = ["*/*", "consolidated*"]
"""Files in folders are other formats of the same weights; `consolidated` is Mistral's own copy of them."""


def download(model_id: str, revision: str | None, cache: str | None, report: job.Report) -> str:
    """The directory of the model in the hub cache.

    Raises:
        ModelError: one line that names the model and the reason.
    """
    wanted: dict[str, Any] = {
        "repo_id": model_id,
        "revision": revision,
        "cache_dir": cache,
        "allow_patterns": _WANTED,
        "ignore_patterns": _UNWANTED,
    }
    cached = _cached(wanted)
    if cached is not None:
        return cached
    stage = f"Downloading {model_id}"
    report(stage, 0.0)
    try:
        files = huggingface_hub.snapshot_download(**wanted, dry_run=True)
        size = sum(file.file_size for file in files if file.will_download)
        bar = _bar(size, lambda fraction: report(stage, fraction))
        return str(huggingface_hub.snapshot_download(**wanted, tqdm_class=bar))
    except Exception as error:  # the library lets the errors of its HTTP client through
        raise ModelError(f"model_id={model_id}: no such directory, and {_reason(error, revision)}") from None


def _cached(wanted: dict[str, Any]) -> str | None:
    """The snapshot in the cache if it is complete."""
    try:
        directory = huggingface_hub.snapshot_download(**wanted, local_files_only=True)
        checkpoint.check(Path(directory))
    except (OSError, ValueError, ModelError):
        return None
    return str(directory)


def _reason(error: BaseException, revision: str | None) -> str:
    if isinstance(error, errors.LocalEntryNotFoundError | errors.DryRunError) and error.__cause__ is not None:
        error = error.__cause__  # what hindered the look-up, without advice on the library's arguments
    if isinstance(error, errors.HFValidationError):
        return "it is not an id of the hub either"
    if constants.HF_HUB_OFFLINE:
        return "the hub cache does not hold it completely (HF_HUB_OFFLINE is set)"
    if isinstance(error, errors.GatedRepoError):
        return "on the hub its licence must be accepted first; then set HF_TOKEN"
    if isinstance(error, errors.RepositoryNotFoundError):
        return "the hub has no such model (a private one needs HF_TOKEN)"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"on the hub it has no revision {revision}"
    return f"it cannot be downloaded: {' '.join(str(error).split()) or type(error).__name__}"


def _bar(size: int, progress: Callable[[float], None]) -> type:
    """A progress bar class that draws nothing and tells which part of `size` bytes has arrived."""

    class Bar(tqdm):  # type: ignore[misc]
        furthest = 0.0  # of all bars: the library counts received and written bytes apart

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            self._counts_bytes = kwargs.get("unit") == "B"
            super().__init__(*args, **{**kwargs, "disable": True})

        def update(self, n: float | None = 1) -> None:
            self.n += n or 0
            if self._counts_bytes and size:
                Bar.furthest = max(Bar.furthest, min(1.0, self.n / size))
                progress(Bar.furthest)

    return Bar


if __name__ == "__main__":
    hub_logging.set_verbosity_error()
    model, branch, place = json.loads(sys.argv[1])
    job.perform(lambda report: download(model, branch, place, report))

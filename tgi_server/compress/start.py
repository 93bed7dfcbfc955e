"""The launcher's side of `job=quantize`: what is refused before anything slow, the model, and the child at work."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import fields
from math import prod
from pathlib import Path
from typing import Any

from tgi_server.compress import options as own
from tgi_server.compress import plan
from tgi_server.compress.options import QuantizeOptions
from tgi_server.compress.task import Task, as_json
from tgi_server.config import describe
from tgi_server.config.schema import ModelOptions, ServerConfig, TelemetryOptions
from tgi_server.errors import ConfigError, ModelError, TgiError, UsageError
from tgi_server.jobs.base import Stop
from tgi_server.launcher import conversions, hardware, job, weights
from tgi_server.launcher.origin import Model
from tgi_server.launcher.process import environment
from tgi_server.launcher.progress import Progress
from tgi_server.models import adapter, tensors
from tgi_server.models.check import settings_of
from tgi_server.models.description import LayerShape
from tgi_server.models.families import read_spec, serves
from tgi_server.models.files import TensorInfo, headers, json_object, weight_files
from tgi_server.models.spec import ModelSpec
from tgi_server.telemetry import logging as log

_VERSION = 2
"""Raised whenever the work is done otherwise: what was begun before cannot be gone on with."""
_DESCRIPTIONS = ("config.json", "tokenizer.json")
"""What decides the result beside the weights."""
_NUMBER_BYTES = 4
"""Of a number in the states of samples."""

_PATIENT = {"GOMP_SPINCOUNT": "2000"}
"""Spins of a waiting thread: more makes the work on a busy machine several times slower."""

logger = logging.getLogger(__name__)


class StoppedEarlyError(TgiError):
    """The operator stopped the work."""


def quantise(options: QuantizeOptions, config: ServerConfig, origins: Mapping[str, str], stop: Stop) -> None:
    """Make the checkpoint, or go on with it.

    Raises:
        UsageError: an option has no effect here.
        ConfigError: options that cannot be had, of this model or of any; or the directory is taken.
        ModelError: there is no such model, or it cannot be quantised.
        StoppedEarlyError: a signal came; the work goes on from there with the same command.
    """
    log.setup(config, "quantize")
    refuse(options, config, origins)
    out = _out(options)
    progress = Progress(bar=not config.json_output)

    def report(stage: str, fraction: float) -> None:
        if stop.requested:
            raise StoppedEarlyError("stopped; the same command goes on from the last layer that was done")
        progress.report(stage, fraction)

    look = _Look(options, origins)
    try:
        model = weights.fetch(config, _dtype(config), report, look.spec, look.weigh, judge=None)
        look.weigh(model.directory, headers(model.directory), model.adapter)
        _check_disk(options, look.spec(model.directory), out)
        job.run("tgi_server.compress.worker", task_of(options, model, out).text(), report=report, extra=_PATIENT)
    finally:
        progress.finish()
    size = sum(path.stat().st_size for path in weight_files(out)) / 1e6
    logger.info("%s: %s, %d bits, %.0f MB; model_id=%s serves it", out, options.method.value, options.bits, size, out)


def _out(options: QuantizeOptions) -> Path:
    return conversions.expanded(options.out or "").absolute()


def refuse(options: QuantizeOptions, config: ServerConfig, origins: Mapping[str, str]) -> None:
    """Raise ConfigError, of which UsageError is one, for what can be refused without a model."""
    used = {field.name for kind in (ModelOptions, TelemetryOptions) for field in fields(kind)} | {"job"}
    unused = [field.name for field in fields(ServerConfig) if field.name not in used - {"tokenizer_config_path"}]
    if lines := list(describe.given(config, origins, unused, "has no effect on job=quantize; leave it out")):
        raise UsageError("; ".join(lines))
    _raise(own.problems(options), origins)
    if options.calibration is not None and not Path(options.calibration).is_file():
        _raise([("calibration", options.calibration, "there is no such file")], origins)
    _check_out(options, _out(options))


def _raise(problems: Iterable[tuple[str, Any, str]], origins: Mapping[str, str]) -> None:
    lines = [
        describe.refused(f"job.{name}", value, reason, origins.get(f"job.{name}")) for name, value, reason in problems
    ]
    if lines:
        raise ConfigError("; ".join(lines))


def _check_out(options: QuantizeOptions, out: Path) -> None:
    try:
        taken = out.exists() and not (out.is_dir() and not any(out.iterdir()))
        place = next((path for path in out.parents if path.exists()), out)
    except OSError as error:  # a name that is too long, say
        raise ConfigError(f"out={options.out}: {error.strerror}") from None
    if taken:
        raise ConfigError(f"out={options.out}: it exists already; choose another directory, or delete it")
    if not (place.is_dir() and os.access(place, os.W_OK)):
        raise ConfigError(f"out={options.out}: {place} is no directory that can be written to")


class _Look:
    """What is asked of a model before and after it is fetched."""

    def __init__(self, options: QuantizeOptions, origins: Mapping[str, str]) -> None:
        self._options = options
        self._origins = origins

    def spec(self, directory: Path) -> ModelSpec:
        """The model in a directory; raises ModelError or ConfigError where it cannot be quantised like this."""
        if not serves(directory):
            kind = json_object(directory / "config.json").get("model_type")
            raise ModelError(
                f"{directory}: model_type {kind!r} is of no family here and runs as transformers' own module, whose "
                "layers are not known; quantize=bitsandbytes at start works with such models"
            )
        spec = read_spec(directory)
        if (said := settings_of(directory, spec)) is not None:
            raise ModelError(f"{said.place}: the model is quantised already ({said.method}); a float one is needed")
        if not isinstance(spec, ModelSpec) or plan.unfit(spec):
            raise ModelError(f"{directory}: {plan.unfit(spec)}")
        _raise(plan.problems(spec, self._options), self._origins)
        return spec

    def weigh(self, directory: Path, files: Mapping[str, TensorInfo], changes: Path | None) -> None:
        """The same of its tensors, and of an adapter that changes them."""
        spec = self.spec(directory)
        tensors.check(spec, files)
        if changes is not None and adapter.read(changes, spec).spec != spec:
            raise ModelError(
                f"{changes}: the adapter changes more of the model than the values of its tensors (a head of its own), "
                "which the checkpoint's config.json could not tell; merge it with PEFT first"
            )


def _dtype(config: ServerConfig) -> Any:
    """Of weights that are converted first."""
    gpu = hardware.torch_knows_cuda() and hardware.accelerators(environment()) > 0
    return config.dtype or hardware.preferred_dtype(gpu)


def _check_disk(options: QuantizeOptions, spec: ModelSpec, out: Path) -> None:
    """Two copies of the samples' states have to fit on the disk, or at the end the checkpoint and its pieces."""
    states = 2 * _NUMBER_BYTES * options.samples * options.sample_tokens * spec.hidden_size
    each = {True: options.bits / 8, False: 2}  # bytes
    states += 2 * int(sum(prod(shape) * each[isinstance(shape, LayerShape)] for _, shape in spec.tensors()))
    place = next(path for path in out.parents if path.is_dir())
    free = shutil.disk_usage(place).free
    if states > free:
        raise ConfigError(
            f"out={options.out}: the states of {options.samples} samples of {options.sample_tokens} tokens and what is "
            f"written take {states / 2**30:.1f} GiB of disk while the work goes on, {free / 2**30:.1f} GiB are free"
        )


def task_of(options: QuantizeOptions, model: Model, out: Path) -> Task:
    """What the program that does the work is told."""
    given = as_json(options)
    kept = {"out": None, "calibration": None, "act_order": options.ordered, "symmetric": options.centred}
    text = b"" if options.calibration is None else Path(options.calibration).read_bytes()
    files = [*weight_files(model.directory), *(model.directory / name for name in _DESCRIPTIONS)]
    if model.adapter is not None:
        files += sorted(path for path in model.adapter.iterdir() if path.is_file())
    told = {
        "version": _VERSION, **given, **kept, "calibration": _digest(text),
        "model": _digest("\n".join(map(_fingerprint, files)).encode()),
    }  # fmt: skip
    return Task(str(model.directory), None if model.adapter is None else str(model.adapter), str(out), given, told)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:12]


def _fingerprint(file: Path) -> str:
    status = file.stat()
    return f"{file.name} {status.st_size} {status.st_mtime_ns}"

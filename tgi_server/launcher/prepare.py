"""The model of a configuration on this machine: fetched, checked and told about."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from tgi_server import host
from tgi_server.config import load
from tgi_server.config.schema import DType, Resolved, ServerConfig
from tgi_server.launcher import hardware, origin
from tgi_server.launcher.examine import Examination
from tgi_server.launcher.origin import Model
from tgi_server.launcher.process import environment
from tgi_server.launcher.progress import Progress
from tgi_server.models import adapter, medusa, tensors
from tgi_server.models.check import ITEM_BYTES, check_memory, reader_of, settings_of
from tgi_server.models.description import Description
from tgi_server.models.files import TensorInfo, headers
from tgi_server.quantize.base import QuantizeMethod, remark_of
from tgi_server.quantize.settings import Settings

Look = Callable[[Path], Description]
"""Describes the model in a directory; raises ModelError or ConfigError for one that cannot be served."""
Fetch = Callable[[ServerConfig, DType, Callable[[str, float], None], Look], Model]
"""Brings a model to this machine; see `tgi_server.launcher.weights.fetch`."""

_MOST_TOLD = 10
"""Names of tensors in a warning; those of layers count as one."""

logger = logging.getLogger(__name__)


def accelerators() -> int:
    """Visible GPUs that the installed torch can use."""
    return hardware.accelerators(environment()) if hardware.torch_knows_cuda() else 0


def resolved(model: Model, num_shard: int, dtype: DType, gpu: bool) -> Resolved:
    """What the children are told about a model that is here."""
    return Resolved(
        model_dir=str(model.directory),
        adapter_dir=None if model.adapter is None else str(model.adapter),
        heads_dir=None if model.heads is None else str(model.heads),
        heads=0 if model.heads is None else medusa.counted(model.heads).count,
        num_shard=num_shard,
        dtype=dtype,
        compute_type=hardware.compute_type(num_shard, gpu),
        model_sha=model.sha,
        pipeline_tag=model.pipeline_tag,
        sha=origin.program_commit(environment()),
        docker_label=origin.docker_label(environment()),
    )


def prepare(
    config: ServerConfig, dtype: DType, fetch: Fetch, look: Callable[..., Description], check: Callable[[], None],
    bar: bool,
) -> tuple[Model, str | None]:  # fmt: skip
    """The model on this machine, and what was found out of one of no family.

    Args:
        check: called now and then, and raises where this is not to go on.
        bar: whether progress is shown as a bar, on a terminal.
    """
    progress = Progress(bar=bar)

    def report(stage: str, fraction: float) -> None:
        check()
        progress.report(stage, fraction)

    examination = Examination(config.trust_remote_code, report)
    try:
        model = fetch(config, dtype, report, partial(look, ask=examination))
    finally:
        progress.finish()
    check()
    return model, examination.text


def fetched(config: ServerConfig, dtype: DType, report: Callable[[str, float], None], look: Look) -> Model:
    """The model with its files, checked tensor by tensor; see `Fetch`."""
    from tgi_server.launcher import weights  # only those who serve need it

    method: QuantizeMethod = load.instantiate(config.quantize)

    def judge(heads: Path, spec: Description) -> medusa.Heads:
        found = medusa.read(heads, spec)
        medusa.check(found, config.speculate)
        return found

    def weigh(
        directory: Path, files: Mapping[str, TensorInfo], changes: Path | None = None, heads: Path | None = None
    ) -> None:
        spec = look(directory)
        reader = reader_of(directory, spec, method)
        tensors.check(spec, files, reader.stored())
        if changes is not None:
            own = adapter.read(changes, spec)
            spec, files = own.spec, own.tensors(files)
        beside = 0 if heads is None else judge(heads, spec).bytes(ITEM_BYTES[dtype], config.speculate)
        if not accelerators():
            free = host.free_memory() * config.num_nodes  # the others are taken to have as much
            check_memory(spec, config, files, dtype, reader, free, beside)

    guesses = config.speculate != 0 and load.instantiate(config.speculation).uses_heads
    model = weights.fetch(config, dtype, report, look, weigh, judge if guesses else None)
    files = headers(model.directory)
    weigh(model.directory, files, model.adapter, model.heads)
    spec = look(model.directory)
    _tell_method(config, method, settings_of(model.directory, spec))
    guessing = medusa.names(model.directory)
    own = {name: info for name, info in files.items() if name not in guessing}
    if unread := tensors.unread(spec, own, reader_of(model.directory, spec, method).stored()):
        more = f" and {len(unread) - _MOST_TOLD} more" if len(unread) > _MOST_TOLD else ""
        logger.warning("tensors of the checkpoint that are not used: %s%s", ", ".join(unread[:_MOST_TOLD]), more)
    return model


def _tell_method(config: ServerConfig, method: QuantizeMethod, said: Settings | None) -> None:
    """A line on a method that nobody has asked for but the checkpoint, or that has a better one beside it."""
    if said is None and (remark := remark_of(method)):
        logger.warning(remark)
    if said is not None and config.quantize == ServerConfig().quantize:
        logger.info("the checkpoint is quantised by %s (%s), and is read so", said.method, said.place)

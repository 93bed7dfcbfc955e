"""`python -m tgi_server`: options, checks, weights, then shards and router until told to stop."""

from __future__ import annotations

import io
import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import ClassVar, Protocol

import tgi_server
from tgi_server import host
from tgi_server.config import cli, describe, load, usage
from tgi_server.config.arguments import Arguments, Composition
from tgi_server.config.schema import DType, Resolved, ServerConfig
from tgi_server.errors import TgiError, UsageError
from tgi_server.launcher import check, hardware, origin, report, sockets
from tgi_server.launcher.examine import Examination
from tgi_server.launcher.origin import Model
from tgi_server.launcher.process import environment
from tgi_server.launcher.progress import Progress
from tgi_server.launcher.supervise import Programs, Server, StoppedError, StopSignals
from tgi_server.models import adapter, medusa, tensors
from tgi_server.models.check import ITEM_BYTES, check_memory, described, reader_of, settings_of
from tgi_server.models.description import Description
from tgi_server.models.files import TensorInfo, headers
from tgi_server.quantize.base import QuantizeMethod, remark_of
from tgi_server.quantize.settings import Settings
from tgi_server.telemetry import logging as log

Look = Callable[[Path], Description]
"""Describes the model in a directory; raises ModelError or ConfigError for one that cannot be served."""
Fetch = Callable[[ServerConfig, DType, Callable[[str, float], None], Look], Model]
"""Brings a model to this machine; see `tgi_server.launcher.weights.fetch`."""

_MOST_TOLD = 10
"""Names of tensors in a warning; those of layers count as one."""

logger = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None, programs: Programs | None = None, fetch: Fetch | None = None) -> int:
    """Run a server and return the exit status: 0 when told to stop, 2 for unreadable options, 1 for all else.

    Args:
        argv: the arguments after the program's name.
        programs: what to run instead of the real shards and router.
        fetch: what to call instead of `weights.fetch`.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal that cannot show a name is no reason to fail
    stop = StopSignals()
    stop.install()
    try:
        _run(sys.argv[1:] if argv is None else argv, programs or Programs(), fetch or _fetch, stop)
    except StoppedError:
        logger.info("stopped before the server was ready")
    except BrokenPipeError:  # whoever read what we print has gone, as in --help | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except TgiError as error:
        print(f"Error: {error}", file=sys.stderr)
        return getattr(error, "exit_code", 1)
    return 0


def _run(argv: Sequence[str], programs: Programs, fetch: Fetch, stop: StopSignals) -> None:
    arguments = cli.parse(argv)
    if arguments.show in ("summary", "help"):
        print(usage.text(long=arguments.show == "help"))
    elif arguments.show == "version":
        print(f"tgi_server {tgi_server.__version__}")
    elif arguments.show == "hydra":
        load.ask_hydra(arguments)
    else:
        runs = [load.composition(run) for run in load.combinations(arguments)]
        if arguments.show == "config":
            _show(runs, arguments)
        else:
            _run_jobs(runs, arguments, programs, fetch, stop)


def _show(runs: Sequence[Composition], arguments: Arguments) -> None:
    """`--cfg job`: print, then check as a start does before it starts anything."""
    print("---\n".join(load.as_yaml(run, arguments.resolve) for run in runs), end="", flush=True)
    for warning in [*arguments.warnings, *arguments.suspects]:
        print(f"Warning: {warning}", file=sys.stderr)
    for run in runs:
        job: Job = load.instantiate(run.config.job)
        job.check(run.config, run.origins)
        if job.starts_server:
            check.options(run.config, run.origins, _accelerators())


def _run_jobs(
    runs: Sequence[Composition], arguments: Arguments, programs: Programs, fetch: Fetch, stop: StopSignals
) -> None:
    """One after the other; the first that fails is the last."""
    jobs: list[Job] = [load.instantiate(run.config.job) for run in runs]
    _check_jobs(jobs, arguments)
    varied = describe.varied([run.config for run in runs])
    for number, (run, job) in enumerate(zip(runs, jobs, strict=True), 1):
        if len(runs) > 1:
            print(f"run {number} of {len(runs)}: {', '.join(varied[number - 1])}", flush=True)
        serve = partial(_start, run, arguments, programs, fetch, stop)
        job.run(run.config, run.origins, serve, stop)
        if stop.hurried:  # a signal, beside the job's own wish to end
            break
        stop = StopSignals()
        stop.install()


def _check_jobs(jobs: Sequence[Job], arguments: Arguments) -> None:
    """Flags that would have no effect are refused."""
    if len(jobs) > 1 and any(job.endless for job in jobs):
        raise UsageError("--multirun: job=serve runs until it is told to stop; use job=bench, or --cfg job to look")
    if arguments.report and not all(job.starts_server for job in jobs):
        raise UsageError("--env: tells about a server that is started here; leave it or target out")


def _start(run: Composition, arguments: Arguments, programs: Programs, fetch: Fetch, stop: StopSignals) -> None:
    log.setup(run.config, "launcher")
    _introduce(run, arguments)
    _serve(run.config, run.origins, programs, fetch, stop)


class Job(Protocol):
    """What can be done with a configuration; the jobs are those of `conf/job`, their options the fields of the class.

    Attributes:
        endless: whether it only ends when it is told to.
    """

    endless: ClassVar[bool]

    @property
    def starts_server(self) -> bool:
        """Whether it runs the configured server."""

    def check(self, config: ServerConfig, origins: Mapping[str, str]) -> None:
        """Raise UsageError or ConfigError where the options cannot go together, as far as that can be told quickly."""

    def run(
        self, config: ServerConfig, origins: Mapping[str, str], serve: Callable[[], None], stop: StopSignals
    ) -> None:
        """Do the job, which has not been checked.

        Args:
            origins: where the value of an option was written.
            serve: runs the configured server until `stop`.
        """


@dataclass
class Serve:
    """`job=serve`: the configured server, until it is told to stop."""

    endless: ClassVar[bool] = True
    starts_server: ClassVar[bool] = True

    def check(self, config: ServerConfig, origins: Mapping[str, str]) -> None:
        """Nothing beside the server's own options; see `Job`."""

    def run(
        self, config: ServerConfig, origins: Mapping[str, str], serve: Callable[[], None], stop: StopSignals
    ) -> None:
        """Nothing but serve; see `Job`."""
        serve()


def _introduce(run: Composition, arguments: Arguments) -> None:
    for warning in [*arguments.warnings, *arguments.suspects]:
        logger.warning(warning)
    if arguments.report:
        level = max(logging.INFO, logger.getEffectiveLevel())  # whatever log_level is, it was asked for
        for line in report.lines(run):
            logger.log(level, line)
    changed = describe.changed(run.config, run.origins)
    logger.info("options that differ from their defaults: %s", ", ".join(changed) or "none")


def _serve(
    config: ServerConfig, origins: Mapping[str, str], programs: Programs, fetch: Fetch, stop: StopSignals
) -> None:
    accelerators = _accelerators()
    check.options(config, origins, accelerators)
    num_shard = check.number_of_shards(config, accelerators)
    dtype = config.dtype or hardware.preferred_dtype(gpu=accelerators > 0)
    with ExitStack() as held:
        held.enter_context(sockets.claim_port(config))
        listener = held.enter_context(sockets.bind(config))
        held.enter_context(sockets.claim_paths(config))
        sockets.clear(config, sockets.shard_paths(config, num_shard))
        if num_shard > 1:
            sockets.check_master_port(config)
        logger.info("%d shard(s), %s, port %d", num_shard, dtype.name, listener.getsockname()[1])
        method: QuantizeMethod = load.instantiate(config.quantize)
        look = partial(described, config=config, num_shard=num_shard, dtype=dtype, quantize=method)
        model, description = _prepare(config, dtype, fetch, look, stop)
        resolved = replace(_resolved(model, num_shard, dtype, gpu=accelerators > 0), description=description)
        Server(programs, config, resolved, listener, stop).run()


def _accelerators() -> int:
    """Visible GPUs that the installed torch can use."""
    return hardware.accelerators(environment()) if hardware.torch_knows_cuda() else 0


def _resolved(model: Model, num_shard: int, dtype: DType, gpu: bool) -> Resolved:
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


def _prepare(
    config: ServerConfig, dtype: DType, fetch: Fetch, look: Callable[..., Description], stop: StopSignals
) -> tuple[Model, str | None]:
    """The model on this machine, and what was found out of one of no family; StoppedError when a signal comes."""
    progress = Progress(bar=not config.json_output)

    def report(stage: str, fraction: float) -> None:
        stop.check()
        progress.report(stage, fraction)

    examination = Examination(config.trust_remote_code, report)
    try:
        model = fetch(config, dtype, report, partial(look, ask=examination))
    finally:
        progress.finish()
    stop.check()
    return model, examination.text


def _fetch(config: ServerConfig, dtype: DType, report: Callable[[str, float], None], look: Look) -> Model:
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
        if not _accelerators():
            check_memory(spec, config, files, dtype, reader, host.free_memory(), beside)

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

"""What the jobs of `conf/job` owe the launcher, and what it gives them. Stdlib only."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

from tgi_server.config.arguments import Arguments, Composition
from tgi_server.config.schema import ServerConfig

_T = TypeVar("_T")


class Stop(Protocol):
    """Whether to stop, asked for by a signal or by `request`."""

    @property
    def requested(self) -> bool:
        """Whether to come to an orderly end."""

    @property
    def hurried(self) -> bool:
        """Whether to end at once."""

    def request(self) -> None:
        """Ask for an orderly end; any thread may."""


class Stage(Protocol):
    """Where servers run, one at a time.

    Shards and router are kept from one configuration to the next as far as the two differ in nothing that concerns
    them, and are stopped when the stage is left.
    """

    def serve(self, run: Composition) -> None:
        """Run the configured server until told to stop."""

    def beside(self, run: Composition, work: Callable[[], _T], log: Path | None = None) -> _T:
        """What `work` returns, called in a thread once the configured server answers.

        Args:
            log: a file to which the processes' lines are appended; standard output when None.

        Raises:
            ChildFailedError: a process of the server ended; `last_words` are the last lines that it wrote. Nothing of
                the server is left then, and the next call starts it anew.
            StoppedError: told to stop.
        """

    def ask_shards(self, run: Composition, module: str, *arguments: str, report: Callable[[str, float], None]) -> str:
        """What `python -m module ARGUMENTS` finds out at the running shards of a configuration, in the router's place.

        The program reads a `Launch` from its standard input and ends in `launcher.job.perform`. Raises as `beside`.
        """


@dataclass(frozen=True)
class Task:
    """A job with the configuration that it is for; `job` was made of that, and both of `arguments`."""

    run: Composition
    job: Any
    arguments: Arguments


@dataclass(frozen=True)
class Context:
    """What a job may use.

    Attributes:
        stage: where servers run.
        stop: whether to stop.
        vary: the configuration of a task with some options, or fields of its job, set otherwise, as they would be on
            the command line: `{"max_waiting_tokens": "5"}`. Raises UsageError.
        command: the command line, secrets masked.
    """

    stage: Stage
    stop: Stop
    vary: Callable[[Task, Mapping[str, str]], Task]
    command: str


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

    @classmethod
    def perform(cls, tasks: Sequence[Task], context: Context) -> None:
        """Do the job, which has not been checked, for one configuration or, with --multirun, for several.

        All of `tasks` have a job of this class.
        """

"""Child processes: start them, pass on what they write, tell how they ended, leave none behind."""

from __future__ import annotations

import contextlib
import ctypes
import json
import logging
import os
import re
import selectors
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import IO

from tgi_server.config.schema import secrets
from tgi_server.launcher.hung import Signs
from tgi_server.telemetry.logging import relayed
from tgi_server.telemetry.signs import SHOW_STACKS
from tgi_server.types import PROGRESS, SETTLED

_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None) if sys.platform.startswith("linux") else None
_CHUNK = 65536
"""Bytes read from a child at once."""
_LONGEST_LINE = 1 << 20
"""Bytes; a longer line is passed on in pieces. Our own are shorter, with all that is escaped in them."""
_LAST_WORDS = 20
"""Lines of standard error that are remembered."""
_TICK = 0.05
"""Seconds between two looks at whether a child has ended."""
_SIGNALS: Mapping[int, str] = {
    signal.SIGILL: "illegal instruction: the processor lacks one that this build uses",
    signal.SIGABRT: "aborted",
    signal.SIGBUS: "bus error: often too little shared memory",
    signal.SIGKILL: "killed: often because memory ran out",
    signal.SIGSEGV: "segmentation fault",
}

logger = logging.getLogger(__name__)


HUB_TOKENS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_API_TOKEN")
"""Variables with which the hub library finds out who asks."""

_TRACING = re.compile("OTEL_.*HEADERS")
_SECRETS = re.compile(f"AWS_.*|{_TRACING.pattern}")
"""Variables of other programs with which these show who they are."""


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of this process, with additions."""
    return {**os.environ, **(extra or {})}


def for_child(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of a child, with additions and without secrets: those it needs come with its configuration.

    A model's own code may run in a child (`trust_remote_code`), and whoever runs as this user can read it there.
    """
    kept = {*HUB_TOKENS, *(name.upper() for name in secrets())}
    inherited = {name: value for name, value in os.environ.items() if not (name in kept or _SECRETS.fullmatch(name))}
    return {**inherited, **(extra or {})}


def for_tracing() -> dict[str, str]:
    """The variables with which a collector of traces finds out who sends them, which only routers need."""
    return {name: value for name, value in os.environ.items() if _TRACING.fullmatch(name)}


class Child:
    """One child process. Its own session keeps a terminal's Ctrl-C away: only the launcher decides when it stops."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        text: str,
        extra: Mapping[str, str],
        inherited: Sequence[int] = (),
        take: Callable[[bytes], None] | None = None,
    ) -> None:
        """Start `command`, which reads `text` from its standard input.

        Its attribute `progress` is the part of its start (0 to 1) that the child has told to be done, `settled` are the
        options that it has found numbers for, `signs` those of life that it has given.

        Args:
            name: how logs call it.
            extra: additional environment variables.
            inherited: file descriptors it keeps, under their numbers.
            take: gets the lines of its standard output, which are passed on when None.
        """
        self.name = name
        self.progress: float | None = None
        self.settled: dict[str, int] = {}
        self.signs = Signs()
        self._words: deque[str] = deque(maxlen=_LAST_WORDS)
        self._said: deque[str] = deque(maxlen=_LAST_WORDS)
        self._killed = False
        self._stacks: list[str] | None = None  # what it writes while it shows them
        self._process = subprocess.Popen(
            list(command),
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=for_child(extra),
            pass_fds=inherited,
            start_new_session=True,
            preexec_fn=end_with(os.getpid()),
        )
        assert self._process.stdin and self._process.stdout and self._process.stderr
        self.pipes = {
            self._process.stdout: _Lines(take or self._relay, None if take else _LONGEST_LINE),
            self._process.stderr: _Lines(self._remember),
        }
        with self._process.stdin as stdin, contextlib.suppress(BrokenPipeError):
            stdin.write(text.encode())  # fits into the pipe: this never waits for the child

    @property
    def pid(self) -> int:
        """Its number."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._process.poll() is None

    @property
    def succeeded(self) -> bool:
        """Whether it has ended with exit status 0."""
        return self._process.poll() == 0

    @property
    def status(self) -> int | None:
        """With what it has ended, below 0 the signal; None while it runs."""
        return self._process.poll()

    @property
    def error(self) -> str | None:
        """The message of a last line `Error: MESSAGE` on its standard error."""
        last = self._words[-1] if self._words else ""
        return last.removeprefix("Error: ") if last.startswith("Error: ") else None

    @property
    def clarity(self) -> int:
        """How much its end explains when several ended together: 2 its own message, 1 a signal, 0 anything else."""
        return 2 if self.error is not None else int((self._process.poll() or 0) < 0)

    @property
    def last_words(self) -> str:
        """The last lines of its standard error."""
        return "\n".join(self._words)

    @property
    def last_lines(self) -> list[str]:
        """The last lines of its standard output, then those of its standard error."""
        return [*self._said, *self._words]

    def ending(self) -> str:
        """How it ended, in words."""
        code = self._process.wait()
        if code >= 0:
            return f"ended with exit code {code}"
        words = _SIGNALS.get(-code) or signal.strsignal(-code)
        return f"was ended by signal {-code} ({words})"

    def show_stacks(self) -> list[str]:
        """Have it write where its threads are; the lines are added to the result as they come.

        One that was stopped goes on, as it cannot write otherwise. Only for children that gave a sign of life.
        """
        self._stacks = []
        for number in (SHOW_STACKS, signal.SIGCONT):
            self._process.send_signal(number)
        return self._stacks

    def terminate(self) -> None:
        """Ask it to stop."""
        self._process.terminate()

    def kill(self) -> None:
        """End it at once, with all processes it started; again does nothing, the number may be another's by then."""
        if not self._killed:
            self._killed = True
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def _relay(self, line: bytes) -> None:
        self._said.append(line.decode(errors="replace").rstrip())
        if not relayed(line):
            logger.debug("%s: %s", self.name, self._said[-1])
            return
        with contextlib.suppress(OSError):  # nobody reads our output any more
            sys.stdout.buffer.write(line)
            sys.stdout.buffer.flush()

    def _remember(self, line: bytes) -> None:
        text = line.decode(errors="replace").rstrip()
        if text.startswith(PROGRESS):
            with contextlib.suppress(ValueError):  # a library's line that happens to begin like ours
                self.progress = float(text.removeprefix(PROGRESS))
        elif text.startswith(SETTLED):
            with contextlib.suppress(ValueError):
                self.settled = json.loads(text.removeprefix(SETTLED))
        elif text and not self.signs.take(text):
            self._words.append(text)
            if self._stacks is not None:
                self._stacks.append(text)
            # What matters is repeated when the child ends; until then it is mostly the noise of libraries.
            logger.debug("%s: %s", self.name, text)


def end_with(launcher: int) -> Callable[[], None] | None:
    """What a new child calls before its program starts, so that it dies when process `launcher` does, by kill -9 too.

    Linux: it dies with the thread that has started it.
    """
    if _LIBC is None:
        return None

    def before_exec() -> None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != launcher:  # it died before the line above
            os._exit(1)

    return before_exec


class _Lines:
    """Cuts a stream of bytes into lines; those of more than `longest` bytes, if that is given, into pieces."""

    def __init__(self, take: Callable[[bytes], None], longest: int | None = _LONGEST_LINE) -> None:
        self._take = take
        self._longest = longest
        self._rest = b""

    def feed(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._take(line + b"\n")
        if self._longest is not None and len(self._rest) > self._longest:
            self.end()

    def end(self) -> None:
        if self._rest:
            self._take(self._rest + b"\n")
        self._rest = b""


class Children:
    """All child processes of the launcher. Leaving the context kills those that still run."""

    def __init__(self) -> None:
        self._children: list[Child] = []
        self._selector = selectors.DefaultSelector()

    def __enter__(self) -> Children:
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop(self._children, 0)
        for key in list(self._selector.get_map().values()):
            self._close(key.fileobj)  # type: ignore[arg-type]
        self._selector.close()

    def start(
        self,
        name: str,
        command: Sequence[str],
        text: str,
        extra: Mapping[str, str],
        inherited: Sequence[int] = (),
        take: Callable[[bytes], None] | None = None,
    ) -> Child:
        """Start a child; the arguments are those of `Child`."""
        child = Child(name, command, text, extra, inherited, take)
        self._children.append(child)
        for pipe, lines in child.pipes.items():
            self._selector.register(pipe, selectors.EVENT_READ, lines)
        return child

    def poll(self, timeout: float = _TICK) -> None:
        """Pass on what the children write; returns after `timeout` seconds, or earlier when there was something."""
        for key, _ in self._selector.select(timeout):
            data = os.read(key.fd, _CHUNK)
            if data:
                key.data.feed(data)
            else:
                key.data.end()
                self._close(key.fileobj)  # type: ignore[arg-type]

    def ended(self) -> list[Child]:
        """Children that no longer run, those first whose end says most clearly why."""
        return sorted((child for child in self._children if not child.alive), key=lambda child: -child.clarity)

    def hear_out(self, child: Child, seconds: float) -> None:
        """Pass on what a child that ended left in its pipes, for at most `seconds`: others may hold them open."""
        deadline = time.monotonic() + seconds
        while not all(pipe.closed for pipe in child.pipes) and time.monotonic() < deadline:
            self.poll()

    def stacks(self, child: Child, seconds: float) -> list[str]:
        """Where the threads of a child are, as it says within some seconds; nothing if it cannot."""
        lines = child.show_stacks()
        deadline, seen = time.monotonic() + seconds, -1
        while time.monotonic() < deadline and (not lines or len(lines) > seen):
            seen = len(lines)
            self.poll(4 * _TICK)
        return lines

    def stop(self, children: Sequence[Child], grace: float, hurried: Callable[[], bool] = lambda: False) -> None:
        """Ask children to stop, wait, kill those that have not stopped after `grace` seconds or once `hurried`."""
        running = [child for child in children if child.alive]
        for child in running:
            child.terminate()
        deadline = time.monotonic() + grace
        while any(child.alive for child in running) and time.monotonic() < deadline and not hurried():
            self.poll()
        for child in children:
            child.kill()
        self.poll(0)

    def drop(self, child: Child) -> None:
        """Forget a child that has ended: that it did is no news any more."""
        self.hear_out(child, 0.5)
        for pipe in child.pipes:
            if not pipe.closed:
                self._close(pipe)
        self._children.remove(child)

    def _close(self, pipe: IO[bytes]) -> None:
        self._selector.unregister(pipe)
        pipe.close()

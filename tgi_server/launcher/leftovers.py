"""Removes what a launcher leaves behind that is killed by `kill -9`. Its children die with it, without a last act."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

_PROGRAM = """
import os, shutil, sys
if not sys.stdin.buffer.read():
    for path in sys.argv[1:]:
        try:
            os.unlink(path)
        except IsADirectoryError:
            shutil.rmtree(path, ignore_errors=True)
        except OSError:
            pass
"""


class Leftovers:
    """A small process that outlives this one, and then removes files: it reads a pipe that ends with this process.

    Args:
        paths: the files, or directories with all that is in them; those that are not there are no problem.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _PROGRAM, *map(str, paths)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # a terminal's Ctrl-C is not meant for it
        )

    def close(self) -> None:
        """End it; nothing is removed."""
        with contextlib.suppress(OSError):
            self._process.communicate(b"all is well")
        self._process.wait()

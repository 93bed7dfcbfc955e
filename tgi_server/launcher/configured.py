"""A server whose configuration is composed already: `python -m tgi_server.launcher.configured`.

It reads a `Launch` from its standard input, serves on the socket `listen_fd` that it inherits, and ends as the command
itself does.
"""

from __future__ import annotations

import socket
import sys

from tgi_server.config import describe, load
from tgi_server.config.arguments import Arguments, Composition
from tgi_server.errors import TgiError
from tgi_server.launcher import prepare
from tgi_server.launcher.stage import Stage
from tgi_server.launcher.supervise import Programs, StoppedError, StopSignals

_ORIGIN = "composed before"


def main() -> int:
    """Serve until told to stop; returns the exit status, as `launcher.main` does."""
    stop = StopSignals()
    stop.install()
    launch = load.read(sys.stdin)
    try:
        with (
            socket.socket(fileno=launch.resolved.listen_fd) as listener,
            Stage(Arguments(), Programs(), prepare.fetched, stop, listener) as stage,
        ):
            origins = dict.fromkeys(describe.differing(launch.config), _ORIGIN)
            stage.serve(Composition(launch.config, origins, {}))
    except StoppedError:
        return 0
    except TgiError as error:
        print(f"Error: {error}", file=sys.stderr)
        return getattr(error, "exit_code", 1)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Log lines of every process, as text or JSON, on standard output. Stdlib only.

Any module logs with `logging.getLogger(__name__)`; fields of its own go into `extra={...}` and appear in both formats.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any, TextIO

from tgi_server.config.schema import LogLevel, TelemetryOptions

TRACE = 5
"""Level number of `trace`, below `logging.DEBUG`."""

_LEVELS = {
    LogLevel.trace: TRACE,
    LogLevel.debug: logging.DEBUG,
    LogLevel.info: logging.INFO,
    LogLevel.warn: logging.WARNING,
    LogLevel.error: logging.ERROR,
}
_STANDARD_FIELDS = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}


def setup(options: TelemetryOptions, name: str) -> None:
    """Send the logs of this process to standard output, replacing what was set up before.

    Args:
        options: the format and the least severe level.
        name: the process, as the lines name it: `launcher`, `router`, `shard-0`.
    """
    logging.addLevelName(TRACE, "TRACE")
    logging.addLevelName(logging.WARNING, "WARN")
    logging.captureWarnings(True)
    handler = _Output(sys.stdout)
    handler.setFormatter(JsonFormatter(name) if options.json_output else TextFormatter(name))
    level = _LEVELS[options.log_level]
    root = logging.getLogger()
    root.handlers[:] = [handler]
    # Libraries tell much at info that helps nobody who runs a server.
    root.setLevel(level if level < logging.INFO else max(level, logging.WARNING))
    logging.getLogger("tgi_server").setLevel(level)


class _Output(logging.StreamHandler[TextIO]):
    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802, the name is logging's
        if not isinstance(sys.exception(), OSError):  # a reader of our output that went away is no news
            super().handleError(record)


class TextFormatter(logging.Formatter):
    """`TIME LEVEL target: message field=value`, a traceback on the lines below."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self._name = name

    def format(self, record: logging.LogRecord) -> str:
        """The line of text, without its end."""
        fields = "".join(f" {key}={value}" for key, value in _extra(record).items())
        head = f"{_timestamp(record)} {record.levelname:>5} {_target(record, self._name)}:"
        return "\n".join([f"{head} {record.getMessage()}{fields}", *_traceback(self, record)])


class JsonFormatter(logging.Formatter):
    """One JSON object a line: timestamp, level, message, target, the record's own fields, a traceback if any."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self._name = name

    def format(self, record: logging.LogRecord) -> str:
        """The JSON object."""
        line = _extra(record) | {
            "timestamp": _timestamp(record),
            "level": record.levelname,
            "message": record.getMessage(),
            "target": _target(record, self._name),
        }
        for traceback in _traceback(self, record):
            line["exception"] = traceback
        return json.dumps(line, default=str)


def _timestamp(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, UTC)
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


def _target(record: logging.LogRecord, name: str) -> str:
    own = record.name.partition(".")[0] in ("tgi_server", "root", "__main__")
    return name if own else f"{name}:{record.name}"


def _extra(record: logging.LogRecord) -> dict[str, Any]:
    return {key: value for key, value in vars(record).items() if key not in _STANDARD_FIELDS}


def _traceback(formatter: logging.Formatter, record: logging.LogRecord) -> list[str]:
    return [formatter.formatException(record.exc_info)] if record.exc_info and record.exc_info[0] else []

"""Log lines of every process, as text or JSON, on standard output. Stdlib only.

Any module logs with `logging.getLogger(__name__)`; fields of its own go into `extra={...}` and appear in both formats.
A field `span` holds the fields of the request, or of what else takes time, that the line belongs to.
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
SPAN = "span"
_STANDARD_FIELDS = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}


def setup(options: TelemetryOptions, name: str) -> None:
    """Send the logs of this process to standard output, replacing what was set up before.

    Args:
        options: the format and the least severe levels.
        name: the process, as the lines name it: `launcher`, `router`, `shard-0`.
    """
    logging.addLevelName(TRACE, "TRACE")
    logging.addLevelName(logging.WARNING, "WARN")
    logging.captureWarnings(True)
    handler = _Output(sys.stdout)
    handler.setFormatter(JsonFormatter(name) if options.json_output else TextFormatter(name))
    levels = dict(map(_split, options.log_levels))
    level = levels.pop(name.partition("-")[0], _LEVELS[options.log_level])
    root = logging.getLogger()
    root.handlers[:] = [handler]
    # Libraries tell much at info that helps nobody who runs a server.
    root.setLevel(level if level < logging.INFO else max(level, logging.WARNING))
    for module, own in {"tgi_server": level, **levels}.items():
        logging.getLogger(module).setLevel(own)


def _split(text: str) -> tuple[str, int]:
    """The two sides of `router=debug`."""
    name, _, level = text.partition("=")
    return name, _LEVELS[LogLevel[level]]


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
        extra = _extra(record)
        fields = "".join(f" {key}={value}" for key, value in (extra.pop(SPAN, {}) | extra).items())
        head = f"{_timestamp(record)} {record.levelname:>5} {_target(record, self._name)}:"
        return "\n".join([f"{head} {record.getMessage()}{fields}", *_traceback(self, record)])


class JsonFormatter(logging.Formatter):
    """One JSON object a line, as programs that read TGI's logs expect it.

    All have timestamp, level, target and, where there is one, span. Message, the record's own fields and a traceback
    are put into `fields`, but those of the router beside the others, with file name and line number.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        self._flat = name == "router"
        # the launcher speaks for the shards
        self._target = "text_generation_router" if self._flat else "text_generation_launcher"
        self._span = {"rank": int(name[6:]), "name": "shard-manager"} if name.startswith("shard-") else None

    def format(self, record: logging.LogRecord) -> str:
        """The JSON object."""
        extra = _extra(record)
        span = extra.pop(SPAN, self._span)
        fields = {"message": record.getMessage(), **extra}
        for traceback in _traceback(self, record):
            fields["exception"] = traceback
        line: dict[str, Any] = {"timestamp": _timestamp(record), "level": record.levelname}
        line |= fields if self._flat else {"fields": fields}
        line["target"] = _target(record, self._target)
        if self._flat:
            line |= {"filename": record.filename, "line_number": record.lineno}
        if span is not None:
            line |= {"span": span, "spans": [span]}
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

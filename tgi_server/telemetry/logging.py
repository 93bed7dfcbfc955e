"""Log lines of every process, as text or JSON, on standard output. Stdlib only.

Any module logs with `logging.getLogger(__name__)`; fields of its own go into `extra={...}` and appear in both formats.
A field `span` holds the fields of the request, or of what else takes time, that the line belongs to.

Whatever is logged, a line stays one line: control characters are escaped in text as they are in JSON, half characters
too. What goes on below a line of text, a traceback or `Lines`, is indented, so that nothing in it looks like a line.
"""

from __future__ import annotations

import io
import json
import logging
import math
import re
import sys
import threading
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
_MOST = 8000
"""Characters of a message, of a field or of the end of a traceback that are written."""
_UNPRINTABLE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff]"
)
"""What moves the cursor, begins a line, turns the direction of writing, cannot be seen, or is half a character."""
_BARE = re.compile(r"[^\s\"=]+")
"""Values that need no quotes to be told from what follows them."""
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
    threading.excepthook = _thread_failed
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal that cannot show a name is no reason to fail
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


def relayed(line: bytes) -> bool:
    """Whether a line that a child wrote to its standard output may be written to ours: with JSON, only JSON."""
    handlers = logging.getLogger().handlers
    return not (handlers and isinstance(handlers[0].formatter, JsonFormatter)) or line.startswith(b'{"timestamp": ')


class Lines(str):
    """A text whose line breaks are kept where it is an argument of a message."""


def escaped(text: str) -> str:
    """`text` without characters that are not just seen: in their place stands how Python writes them."""
    return _UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def _thread_failed(failure: threading.ExceptHookArgs) -> None:
    """An exception that ended a thread, which Python would write past the log."""
    if failure.exc_type is SystemExit or failure.exc_value is None:
        return
    trace = (failure.exc_type, failure.exc_value, failure.exc_traceback)
    name = failure.thread.name if failure.thread else "a thread"
    logging.getLogger("tgi_server").error("%s ended by an exception", name, exc_info=trace)


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
        fields = "".join(f" {key}={_value(value)}" for key, value in (extra.pop(SPAN, {}) | extra).items())
        head = f"{_timestamp(record)} {record.levelname:>5} {_target(record, self._name)}:"
        message, *below = _message(record).split("\n") if _has_lines(record) else [_message(record)]
        below += [line for text in _traceback(self, record) for line in text.split("\n")]
        first = escaped(f"{head} {message}{fields}")
        return "\n".join([first, *(f"  {escaped(line)}" for line in below)])


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
        fields = {"message": _message(record), **extra}
        for traceback in _traceback(self, record):
            fields["exception"] = traceback
        line: dict[str, Any] = {"timestamp": _timestamp(record), "level": record.levelname}
        line |= fields if self._flat else {"fields": fields}
        line["target"] = _target(record, self._target)
        if self._flat:
            line |= {"filename": record.filename, "line_number": record.lineno}
        if span is not None:
            line |= {"span": span, "spans": [span]}
        return _json(line)


def _timestamp(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, UTC)
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


def _target(record: logging.LogRecord, name: str) -> str:
    own = record.name.partition(".")[0] in ("tgi_server", "root", "__main__")
    return name if own else f"{name}:{record.name}"


def _message(record: logging.LogRecord) -> str:
    text = record.getMessage()
    return text if len(text) <= _MOST else f"{text[:_MOST]}…"


def _has_lines(record: logging.LogRecord) -> bool:
    return isinstance(record.args, tuple) and any(isinstance(each, Lines) for each in record.args)


def _value(value: Any) -> str:
    """A field in text; in quotes where its end could not be seen."""
    if isinstance(value, str) and not _BARE.fullmatch(value):
        return json.dumps(value[:_MOST], ensure_ascii=False)
    return str(value)[:_MOST]


def _json(line: dict[str, Any]) -> str:
    try:
        return json.dumps(line, default=str, allow_nan=False)
    except ValueError:  # JSON has no word for numbers that are none
        return json.dumps(_finite(line), default=str)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _extra(record: logging.LogRecord) -> dict[str, Any]:
    return {key: value for key, value in vars(record).items() if key not in _STANDARD_FIELDS}


def _traceback(formatter: logging.Formatter, record: logging.LogRecord) -> list[str]:
    """The end of a traceback, if there is one."""
    text = record.exc_text
    if record.exc_info and record.exc_info[0]:
        text = formatter.formatException(record.exc_info)
    return [text[-_MOST:]] if text else []

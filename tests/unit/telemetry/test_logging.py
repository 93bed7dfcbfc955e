"""Log lines as other programs read them; each case is a process of its own, as handlers are global."""

from __future__ import annotations

import json
import subprocess
import sys

CODE = """
import logging, warnings
from tgi_server.config.schema import LogLevel, TelemetryOptions
from tgi_server.telemetry.logging import TRACE, setup
setup(TelemetryOptions(json_output={json}, log_level=LogLevel.{level}), "shard-0")
log = logging.getLogger("tgi_server.x")
log.log(TRACE, "t")
log.debug("d")
log.info("i %s", 1, extra={{"seed": 3, "path": "ü"}})
log.warning("two\\nlines")
try:
    1 / 0
except ZeroDivisionError:
    log.exception("e")
logging.getLogger("library").info("chatter")
logging.getLogger("library").error("trouble")
warnings.warn("careful")
"""


def output(json_output: bool, level: str) -> str:
    code = CODE.format(json=json_output, level=level)
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stderr == ""
    return result.stdout


def test_json() -> None:
    lines = [json.loads(line) for line in output(True, "info").splitlines()]
    assert [line["level"] for line in lines] == ["INFO", "WARN", "ERROR", "ERROR", "WARN"]
    first = lines[0]
    assert (first["message"], first["target"], first["seed"], first["path"]) == ("i 1", "shard-0", 3, "ü")
    assert first["timestamp"].endswith("Z") and "T" in first["timestamp"]
    assert lines[1]["message"] == "two\nlines"
    assert "ZeroDivisionError" in lines[2]["exception"]
    assert lines[3]["target"] == "shard-0:library"
    assert "careful" in lines[4]["message"]


def test_text() -> None:
    text = output(False, "trace")
    assert "TRACE shard-0: t\n" in text
    assert "DEBUG shard-0: d\n" in text
    assert " INFO shard-0: i 1 seed=3 path=ü\n" in text
    assert "ERROR shard-0: e\nTraceback" in text
    assert " INFO shard-0:library: chatter\n" in text


def test_levels() -> None:
    assert "INFO" not in output(False, "warn")
    text = output(False, "error")
    assert "WARN" not in text and "ERROR" in text

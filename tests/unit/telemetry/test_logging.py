"""Log lines as other programs read them; each case is a process of its own, as handlers are global."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import pytest

CODE = """
import logging, warnings
from tgi_server.config.schema import LogLevel, TelemetryOptions
from tgi_server.telemetry.logging import TRACE, setup
setup(TelemetryOptions(json_output={json}, log_level=LogLevel.{level}, log_levels={levels}), "{name}")
log = logging.getLogger("tgi_server.x")
log.log(TRACE, "t")
log.debug("d")
log.info("i %s", 1, extra={{"seed": 3, "path": "ü", "span": {{"time": "1s"}}}})
log.warning("two\\nlines")
try:
    1 / 0
except ZeroDivisionError:
    log.exception("e")
logging.getLogger("library").info("chatter")
logging.getLogger("library").error("trouble")
warnings.warn("careful")
"""


def output(json_output: bool, level: str, name: str = "shard-0", levels: Sequence[str] = ()) -> str:
    code = CODE.format(json=json_output, level=level, name=name, levels=list(levels))
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stderr == ""
    return result.stdout


def lines(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output(True, "info", name).splitlines()]


def test_json_of_the_router_is_flat() -> None:
    told = lines("router")
    assert [line["level"] for line in told] == ["INFO", "WARN", "ERROR", "ERROR", "WARN"]
    names = ["timestamp", "level", "message", "seed", "path", "target", "filename", "line_number", "span", "spans"]
    first = told[0]
    assert list(first) == names
    assert (first["message"], first["target"], first["seed"], first["path"]) == (
        "i 1",
        "text_generation_router",
        3,
        "ü",
    )
    assert first["timestamp"].endswith("Z") and "T" in first["timestamp"]
    assert (first["filename"], first["line_number"]) == ("<string>", 9)
    assert first["span"] == {"time": "1s"} and first["spans"] == [first["span"]]
    assert told[1]["message"] == "two\nlines" and "span" not in told[1]
    assert "ZeroDivisionError" in told[2]["exception"]
    assert told[3]["target"] == "text_generation_router:library"
    assert "careful" in told[4]["message"]


def test_json_of_launcher_and_shards_has_its_fields_together() -> None:
    first, second, third, library, _ = lines("launcher")
    assert list(first) == ["timestamp", "level", "fields", "target", "span", "spans"]
    assert first["fields"] == {"message": "i 1", "seed": 3, "path": "ü"}
    assert first["target"] == "text_generation_launcher" and library["target"] == "text_generation_launcher:library"
    assert "span" not in second and "ZeroDivisionError" in third["fields"]["exception"]
    second = lines("shard-3")[1]
    assert second["target"] == "text_generation_launcher" and second["fields"] == {"message": "two\nlines"}
    assert second["spans"] == [{"rank": 3, "name": "shard-manager"}] == [second["span"]]


def test_text() -> None:
    text = output(False, "trace")
    assert "TRACE shard-0: t\n" in text
    assert "DEBUG shard-0: d\n" in text
    assert " INFO shard-0: i 1 time=1s seed=3 path=ü\n" in text
    assert "ERROR shard-0: e\n  Traceback" in text
    assert " INFO shard-0:library: chatter\n" in text


def test_levels() -> None:
    assert "INFO" not in output(False, "warn")
    text = output(False, "error")
    assert "WARN" not in text and "ERROR" in text


def test_levels_of_their_own() -> None:
    levels = ["shard=debug", "router=error"]
    assert "DEBUG shard-0: d" in output(False, "warn", "shard-0", levels)
    assert "WARN" not in output(False, "trace", "router", levels)
    assert "WARN" in output(False, "warn", "launcher", levels) and "INFO" not in output(
        False, "warn", "launcher", levels
    )
    assert "TRACE shard-0: t" in output(False, "warn", "shard-0", ["tgi_server.x=trace"])
    assert "INFO" not in output(False, "info", "shard-0", ["tgi_server.x=warn"])


HOSTILE = """
import json, logging, math, threading
from tgi_server.config.schema import TelemetryOptions
from tgi_server.telemetry.logging import Lines, setup
setup(TelemetryOptions(json_output={json}), "router")
log = logging.getLogger("tgi_server.x")
bad = "a\\n2026 ERROR forged\\r\\x1b[2J\\x9b1m\\u202e\\u2028\\ud800b"
log.info("m %s", bad, extra={{"field": bad, "span": {{"quoted": "x y=1", "plain": "x", "number": math.nan}}}})
try:
    raise ValueError(bad)
except ValueError:
    log.exception("e")
log.error("stacks:\\n%s", Lines("one\\ntwo\\x1b"))
log.info("x" * 100000)
thread = threading.Thread(target=lambda: 1 / 0, name="worker")
thread.start()
thread.join()
"""


def hostile(json_output: bool, **environ: str) -> list[str]:
    """The lines of a process that logs what is meant to look like something else."""
    command = [sys.executable, "-c", HOSTILE.format(json=json_output)]
    result = subprocess.run(command, capture_output=True, check=True, env=os.environ | environ)
    assert result.stderr == b""
    return result.stdout.decode().split("\n")[:-1]


BAD = "a\\n2026 ERROR forged\\r\\x1b[2J\\x9b1m\\u202e\\u2028\\ud800b"


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_lines_of_text_cannot_be_forged(encoding: str) -> None:
    lines = hostile(False, PYTHONIOENCODING=encoding)
    heads = [line for line in lines if not line.startswith("  ")]
    assert len(heads) == 5
    assert f'm {BAD} quoted="x y=1" plain=x number=nan field=' in heads[0]
    assert all(line.isprintable() for line in lines)
    (raised,) = (number for number, line in enumerate(lines) if line.startswith("  ValueError: a"))
    assert lines[raised + 1] == "  2026 ERROR forged\\r" + BAD.partition("\\r")[2]
    assert lines[lines.index(heads[2]) + 1 :][:2] == ["  one", "  two\\x1b"]
    assert 8000 < len(heads[3]) < 8200 and "worker ended by an exception" in heads[4]


def test_lines_of_json_are_json() -> None:
    first, second, third, _, last = [json.loads(line) for line in hostile(True)]
    assert first["message"] == first["field"].join(["m ", ""]) and first["span"]["number"] == "nan"
    assert "\n" in first["message"] and second["exception"].endswith(first["field"])
    assert third["message"] == "stacks:\none\ntwo\x1b"
    assert "ZeroDivisionError" in last["exception"]

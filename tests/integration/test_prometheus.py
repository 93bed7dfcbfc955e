"""A real Prometheus: it reads what the router tells, answers each query of the dashboard, and tries the alerts."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.integration.listening import listening
from tests.integration.server import free_port
from tests.queries import PROMETHEUS, panel_queries, records, rules
from tests.unit.router.test_metrics import OF_FRONT, every_outcome
from tgi_server.config.schema import Resolved
from tgi_server.telemetry.names import FAMILIES

PLACES = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
"""`./scripts/test` puts it beside Python."""

SERVER, TOOL = (shutil.which(name, path=PLACES) for name in ("prometheus", "promtool"))

pytestmark = pytest.mark.skipif(not (SERVER and TOOL), reason="there is no Prometheus on this machine")

CONFIG = """
global: {{scrape_interval: 500ms, scrape_timeout: 500ms, evaluation_interval: 500ms}}
rule_files: [{rules}]
scrape_configs: [{{job_name: tgi, static_configs: [{{targets: ["127.0.0.1:{port}"]}}]}}]
"""


@pytest.mark.parametrize("arguments", [
    ("check", "config", "prometheus.yml"), ("check", "rules", "alerts.yml"), ("test", "rules", "alerts.test.yml"),
])  # fmt: skip
def test_promtool(arguments: tuple[str, ...]) -> None:
    *command, file = arguments
    done = subprocess.run([str(TOOL), *command, str(PROMETHEUS / file)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


@contextmanager
def prometheus(directory: Path, watched: int) -> Iterator[httpx.Client]:
    """One that looks at a port of this machine twice a second."""
    (directory / "prometheus.yml").write_text(CONFIG.format(rules=PROMETHEUS / "alerts.yml", port=watched))
    port = free_port()
    command = [
        str(SERVER), "--config.file=prometheus.yml", "--storage.tsdb.path=data", "--log.level=warn",
        f"--web.listen-address=127.0.0.1:{port}",
    ]  # fmt: skip
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=directory, stdout=log, stderr=log)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=20) as client:
            yield client
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        finally:
            process.kill()


def until_true(holds: Callable[[], Any], seconds: float = 30, what: str = "it did not happen") -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            if holds():
                return
        except httpx.TransportError:
            pass
        assert time.monotonic() < deadline, what
        time.sleep(0.1)


def ask(client: httpx.Client, query: str) -> list[dict[str, Any]]:
    """The series that answer a query; raises for one that Prometheus does not understand."""
    answer = client.get("/api/v1/query", params={"query": query})
    assert answer.status_code == 200, f"{query}: {answer.text}"
    found: list[dict[str, Any]] = answer.json()["data"]["result"]
    return found


def looks(client: httpx.Client) -> int:
    """How many times it has read the metrics."""
    return sum(int(each["value"][1]) for each in ask(client, "count_over_time(tgi_info[5m])"))


def health(client: httpx.Client) -> list[str]:
    """What it says of each query of alerts and records, once it has tried it."""
    return [rule["health"] for group in client.get("/api/v1/rules").json()["data"]["groups"] for rule in group["rules"]]


def look(directory: Path, port: int, more: Callable[[], None]) -> None:
    """Compare what Prometheus knows with what the dashboard asks for, after some looks at a server; `more` happens
    between two of them."""
    with prometheus(directory, port) as client:
        until_true(lambda: client.get("/-/ready").status_code == 200)
        until_true(lambda: looks(client) >= 2)
        more()
        seen = looks(client)
        until_true(lambda: looks(client) >= seen + 3)
        told = {
            each["metric"]["__name__"] for each in ask(client, 'last_over_time({__name__=~"tgi_.*|process_.*"}[5m])')
        }
        known = client.get("/api/v1/metadata").json()["data"]
        for name, family in FAMILIES.items():
            if name.startswith(OF_FRONT):
                continue
            assert (f"{name}_count" if family.kind == "histogram" else name) in told
            assert known[name] == [{"type": family.kind, "help": family.help, "unit": ""}]
        for title, query in panel_queries():
            if OF_FRONT in query:
                ask(client, query)  # which can be asked, but has no answer here
                continue
            until_true(partial(ask, client, query), what=f"{title} has no answer to {query}")
        for rule in (known_rules := [*records(), *rules()]):
            ask(client, rule["expr"])
        until_true(lambda: health(client) == ["ok"] * len(known_rules), what="a rule cannot be evaluated")


async def test_a_real_prometheus_answers_every_query(tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "draft_width": 3, "max_waiting_tokens": 4, "max_concurrent_requests": 64,
        "resolved": Resolved(load_seconds=1.5, shard_pids=[os.getpid()]),
    }  # fmt: skip
    async with listening(step_seconds=0.001, **options) as (router, port):
        await every_outcome(router)  # the series are there when Prometheus looks first
        loop = asyncio.get_running_loop()

        def again() -> None:
            asyncio.run_coroutine_threadsafe(every_outcome(router), loop).result(60)

        await asyncio.to_thread(look, tmp_path, port, again)

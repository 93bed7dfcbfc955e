"""A sweep of the demo model as a user runs it: stopped in the middle, gone on with, and its winner started."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.integration.server import free_port
from tgi_server.sweep.record import FILE, Sweep, Trial


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    return [
        sys.executable, "-m", "tgi_server", "-m", "job=bench", "model=smollm2", "max_waiting_tokens=5,20",
        "max_batch_size=1,2", "simulate=false", "clients=2", "requests=4", "new_tokens=8", "max_concurrent_requests=4",
        f"port={free_port()}", "hostname=127.0.0.1", f"master_port={free_port()}",
        f"shard_uds_path={tmp_path}/shard", f"record={tmp_path}/record",
    ]  # fmt: skip


def measured(directory: Path) -> int:
    """How many measurements the record has."""
    path = directory / FILE
    return path.read_bytes().count(b'{"kind":"trial"') if path.exists() else 0


def done_well(directory: Path) -> list[Trial]:
    return [trial for trial in Sweep.read(directory).trials if trial.summary is not None]


def kill_shard(launcher: int) -> None:
    (shard,) = [one for one in psutil.Process(launcher).children() if "tgi_server.shard.main" in one.cmdline()]
    shard.kill()


@pytest.mark.timeout(500)
def test_stopped_and_gone_on_with_though_a_shard_dies(command: list[str], tmp_path: Path) -> None:
    record = tmp_path / "record"
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 150
        while not measured(record):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        children = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    done = measured(record)
    assert done < 4
    assert process.returncode == 1
    assert err.splitlines()[-1] == f"Error: stopped; the same command goes on with {done} of 4 measured"
    assert out.split()[:4] == ["max_waiting_tokens", "max_batch_size", "times", "tokens/s"]
    assert not any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in children)
    assert not list(tmp_path.glob("shard*"))

    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 150
        while measured(record) == done:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        kill_shard(process.pid)
        out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    if measured(record) > len(done_well(record)):  # it died during a measurement
        after = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        assert after.returncode == 0, after.stderr
        out, err = after.stdout, after.stderr
    sweep = Sweep.read(record)
    good = done_well(record)
    assert sorted(trial.point for trial in good) == [1, 2, 3, 4]
    assert all("ended by signal 9" in (trial.error or "") for trial in sweep.trials if trial not in good)
    for trial in good:
        assert trial.summary is not None
        assert (trial.summary.requests, trial.summary.failed, trial.summary.new_tokens) == (4, 0, 8)
    assert [line.split()[:4] for line in out.splitlines()[1:5]] == [
        ["1", "5", "1", "1"], ["2", "5", "2", "1"], ["3", "20", "1", "1"], ["4", "20", "2", "1"],
    ]  # fmt: skip
    assert "INFO launcher" not in out + err  # servers tell in the files of their points
    for number in (1, 2, 3, 4):
        assert "INFO router" in (record / "points" / f"0{number}.log").read_text()
    assert {"report.html", "report.md", "best.yaml"} <= {path.name for path in record.iterdir()}
    assert f"written: {record}/best.yaml" in out

"""`job=simulate` as a user runs it: a real shard is measured, then no server is needed any more."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests import gguf_files
from tests.integration.server import free_port
from tgi_server.config.schema import DType
from tgi_server.launcher.gguf.convert import convert

LOAD = ["clients=1,4", "requests=8", "new_tokens=8", "prompt_tokens=5"]


def simulate(*arguments: str) -> list[str]:
    """The lines of standard output."""
    command = [sys.executable, "-m", "tgi_server", "job=simulate", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.alone
def test_a_shard_is_measured_once(tmp_path: Path) -> None:
    source = gguf_files.write(tmp_path / "tiny.gguf", gguf_files.random_weights())
    model = tmp_path / "model"
    model.mkdir()
    convert(source, model, DType.float32, lambda stage, fraction: None)
    costs, output = tmp_path / "costs.json", tmp_path / "out.json"
    server = [
        f"model_id={model}", "max_total_tokens=256", "max_input_length=200", "max_concurrent_requests=8",
        f"port={free_port()}", f"shard_uds_path={tmp_path}/shard", f"costs={costs}", "cost_seconds=2", "log_level=warn",
    ]  # fmt: skip
    before = psutil.Process().children(recursive=True)
    measured = simulate(*server, *LOAD, f"output={output}")
    learned = json.loads(costs.read_text())
    seconds = [sample["seconds"] for sample in learned["findings"]["samples"]]
    assert len(seconds) > 20 and all(0 < each < 1 for each in seconds)
    assert not set(psutil.Process().children(recursive=True)) - set(before), "the shard that was measured is gone"
    again = simulate(*server, *LOAD)
    assert again[:-1] == measured[:-1], "the same costs, the same answers"
    assert [line.split()[:3] + line.split()[4:5] for line in again[1:3]] == [["1", "8", "0", "8"], ["4", "8", "0", "8"]]
    speed = (
        r"simulated \d+ s in [\d.]+ s, \d+ times faster than the clock; to make and tokenise the prompts took [\d.]+ s"
    )
    assert re.fullmatch(speed, again[-1])
    assert json.loads(output.read_text())["simulated"] is True

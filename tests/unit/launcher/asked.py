"""What a stage asks its shards in the tests: `python -m tests.unit.launcher.asked WHAT`, a `Launch` on its input."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from tgi_server.config import load
from tgi_server.errors import ModelError
from tgi_server.launcher import job


def answer(report: job.Report) -> str:
    launch, what = load.read(sys.stdin), sys.argv[1]
    if what == "fail":
        raise ModelError("it cannot be measured")
    report("Asking", 0.5)
    if what == "wait":
        time.sleep(60)
    number = Path(f"{launch.config.shard_uds_path}-0").is_socket() * launch.config.max_waiting_tokens
    return f"{number} " + "x" * 200_000  # more than is read at once


if __name__ == "__main__":
    job.perform(answer)

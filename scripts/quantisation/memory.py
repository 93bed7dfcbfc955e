"""What a start costs, in seconds and memory of the shard; and what the weights take."""

from __future__ import annotations

import gc
import json
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import psutil

from scripts.quantisation.contenders import Contender
from scripts.quantisation.models import ROOT, Model
from scripts.quantisation.servers import ours, running
from tests.integration.server import Server


def started(server: Server) -> dict[str, float]:
    """Wait until it is ready: seconds since its start, and bytes of the shard, at the peak so far and now."""
    with running(server) as seconds:
        return {"seconds": round(seconds, 2), **memory(server)}


def memory(server: Server) -> dict[str, float]:
    """Bytes of the shard of a running server, as the kernel counts them: its resident set, at the peak so far and now.

    A model's files are in it while they are mapped; what the system caches of files is not.
    """
    (shard,) = server.named("tgi_server.shard.main")
    return {"peak": _status(shard, "VmHWM"), "ready": _status(shard, "VmRSS")}


def _status(process: psutil.Process, field: str) -> int:
    lines = Path(f"/proc/{process.pid}/status").read_text()
    found = re.search(rf"^{field}:\s+(\d+) kB", lines, re.MULTILINE)
    assert found is not None, lines
    return int(found[1]) * 1024


def starts(model: Model, contenders: Sequence[Contender], rounds: int) -> dict[str, dict[str, object]]:
    """Of each contender a start that finds no converted model, then `rounds` that do, in turns."""
    told: dict[str, list[dict[str, float]]] = {each.name: [] for each in contenders}
    with tempfile.TemporaryDirectory(prefix="conversions", dir=model.work) as place:
        for _ in range(1 + rounds):
            for each in contenders:
                told[each.name].append(started(ours(model, each, f"conversion_cache={place}/{each.name}")))
                print(f"{each.name}: {told[each.name][-1]}", file=sys.stderr)
    return {name: summary(runs) for name, runs in told.items()}


def without_caches(model: Model, contender: Contender) -> float:
    """Seconds of the very first start on a machine, which compiles the kernels too."""
    with tempfile.TemporaryDirectory(prefix="caches", dir=model.work) as place:
        return started(ours(model, contender, env={"XDG_CACHE_HOME": place}))["seconds"]


def summary(runs: Sequence[dict[str, float]]) -> dict[str, object]:
    """Of several starts, the first of which found nothing made before."""
    first, *later = runs
    return {
        "first": first["seconds"],
        "second": statistics.median(run["seconds"] for run in later),
        "peak": max(run["peak"] for run in later),
        "ready": statistics.median(run["ready"] for run in later),
    }


def weight_bytes(model: Model, contender: Contender) -> int:
    """What a loaded model keeps; found out in a process of its own."""
    command = [sys.executable, "-m", "scripts.quantisation.memory", *model.options(contender)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    return int(json.loads(done.stdout))


def held(options: Sequence[str]) -> int:
    """Load a model in this process: bytes of all tensors that are there then and were not before, each memory once."""
    import torch

    from tgi_server.config import load
    from tgi_server.config.schema import DType
    from tgi_server.kernels.row import Needs
    from tgi_server.launcher.weights import fetch
    from tgi_server.models.families import read_spec
    from tgi_server.models.load import load_model

    config = load.compose(options)
    directory = fetch(config, DType.bfloat16, lambda stage, fraction: None).directory
    spec, needs = read_spec(directory), Needs(device=torch.device("cpu"), dtype=torch.bfloat16)

    def memories() -> dict[int, int]:
        storages = [each.untyped_storage() for each in gc.get_objects() if issubclass(type(each), torch.Tensor)]
        return {storage.data_ptr(): storage.nbytes() for storage in storages}

    before = set(memories())
    model = load_model(directory, spec, needs, 128, load.instantiate(config.quantize))
    gc.collect()
    found = {address: size for address, size in memories().items() if address not in before}
    del model
    return sum(found.values())


if __name__ == "__main__":
    print(held(sys.argv[1:]))

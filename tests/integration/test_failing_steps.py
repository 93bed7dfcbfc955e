"""Steps that fail on ranks which share a model: real processes and collectives, and a model that fails on demand."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from typing import Any

import pytest

from tests.integration.server import free_port

RANK = """
import json, sys
import torch
from tgi_server.cache.kinds import CacheGroup
from tgi_server.kernels.row import Needs
from tgi_server.layers.parallel import Group
from tgi_server.shard import step
from tgi_server.shard.batch import BatchState
from tgi_server.shard.sampler import Watermark
from tgi_server.types import CacheKind, NewSequence, Plan, SamplingParams

rank, port, scene = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
torch.set_num_threads(1)
cpu = torch.device("cpu")
group = Group.join(rank, 2, "127.0.0.1", port, cpu)
fails = {"both": (0, 1), "one": (1,), "chooses": ()}[scene]

def run(inputs):
    hidden = group.all_reduce(torch.ones(len(inputs.ids), 4))
    if 7 in inputs.ids.tolist() and rank in fails:
        raise MemoryError("no memory")
    return group.all_reduce(hidden)

def logits(hidden):
    return group.gather_columns(hidden @ torch.ones(4, 5), 10)

class Choices:
    count = 0
    def __call__(self, *arguments):
        self.count += 1
        if scene == "chooses" and self.count == 2:
            raise MemoryError("no memory")
        return choose(*arguments)

choose, step.choose = step.choose, Choices()
needs = Needs(device=cpu, dtype=torch.float32, plain=True)
state = BatchState(64, cpu, [CacheGroup(CacheKind.FULL)])
stepper = step.Stepper(state, run, logits, None, Watermark(), group, needs)
news = [NewSequence(id, prompt, [[id]], SamplingParams(), 20) for id, prompt in enumerate([[1, 2], [7, 3], [4, 5]])]
plans = [
    Plan(0, [0], [2], news[:1]), Plan(1, [0, 1], [1, 2], news[1:2]), Plan(2, [0, 1], [1, 1]),
    Plan(3, [2], [2], news[2:], finished=[0, 1]),
]
for plan in plans:
    outcome = stepper.step(plan)
    print(json.dumps([outcome.counts, outcome.failed]), flush=True)
"""


def ranks(scene: str) -> list[tuple[int, list[Any], float]]:
    """Exit status, outcomes and seconds from the last outcome to the end, of each rank."""
    command, port = [sys.executable, "-c", RANK], str(free_port())
    started = [
        subprocess.Popen([*command, str(rank), port, scene], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    found = []
    for process in started:
        assert process.stdout is not None
        lines, last = [], time.monotonic()
        for line in process.stdout:
            lines.append(json.loads(line))
            last = time.monotonic()
        process.communicate(timeout=30)
        found.append((process.returncode, lines, time.monotonic() - last))
    return found


@pytest.mark.parametrize(("scene", "second"), [
    ("both", [[1, 0], {"1": "MemoryError: no memory"}]),
    ("chooses", [[0, 0], dict.fromkeys(["0", "1"], "MemoryError: no memory")]),
])  # fmt: skip
def test_ranks_that_fail_alike_go_on(scene: str, second: list[Any]) -> None:
    first, other = ranks(scene)
    assert (first[0], other[0]) == (0, 0)
    assert first[1][0] == [[1], {}] and first[1][1] == second
    assert first[1][3] == [[1], {}], "others are served"
    assert [counts for counts, _ in first[1]] == [counts for counts, _ in other[1]]


@pytest.mark.alone
def test_a_rank_that_fails_alone_ends_them_all_soon() -> None:
    for status, outcomes, seconds in ranks("one"):
        assert status == 1 and outcomes == [[[1], {}]]
        assert seconds < 20, "and not only after the time that a collective has"

"""Router and shards over real unix sockets, the shards in processes of their own with a fake model."""

import asyncio
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from tests.integration.server import free_port
from tgi_server.config.schema import ShardOptions
from tgi_server.errors import GenerationError, UnhealthyError
from tgi_server.placement import placements
from tgi_server.rpc.client import GrpcShards
from tgi_server.rpc.fake import FAKE_INFO, FakeModel
from tgi_server.rpc.server import HANDOVER
from tgi_server.telemetry.signs import SHOW_STACKS
from tgi_server.types import HANGS, SIGN, NewSequence, Placement, Plan, SamplingParams

SHARD = """
import sys, time
from dataclasses import replace
from tgi_server.rpc.fake import FAKE_INFO, FakeModel
from tgi_server.rpc import server
from tgi_server.rpc.server import Remote, serve
path, rank, delay, fail_at = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4])
server.HANDOVER = float(sys.argv[5])
assert "torch" not in sys.modules
group = FAKE_INFO.groups[0]
def reset():
    global model
    model = FakeModel(replace(FAKE_INFO, groups=[replace(group, num_blocks=1 << 20)]))
reset()
def step(plan):
    time.sleep(delay)
    if plan.step == fail_at:
        raise RuntimeError("the device is gone")
    return model.step(plan)
serve(path, replace(FAKE_INFO, groups=[replace(group, num_blocks=group.num_blocks - rank)]), step, reset, rank,
      remote=Remote(*sys.argv[6:]) if len(sys.argv) > 6 else None)
"""


class Processes:
    """Shard processes on `{prefix}-{rank}`."""

    def __init__(self, directory: Path) -> None:
        self.prefix = str(directory / "shard")
        self.all: list[subprocess.Popen[str]] = []

    def start(
        self, world: int, delay: float = 0.0, fail_at: int = -1, handover: float = HANDOVER, remote: Sequence[str] = ()
    ) -> None:
        """`remote` are address and key of all but rank 0."""
        for rank in range(world):
            arguments = [f"{self.prefix}-{rank}", str(rank), str(delay), str(fail_at), str(handover)]
            arguments += remote if rank else ()
            process = subprocess.Popen([sys.executable, "-c", SHARD, *arguments], stderr=subprocess.PIPE, text=True)
            self.all.append(process)
        deadline = time.monotonic() + 20
        while not all(Path(f"{self.prefix}-{rank}").exists() for rank in range(world)):
            assert time.monotonic() < deadline and all(process.poll() is None for process in self.all)
            time.sleep(0.01)

    def places(self, world: int) -> list[Placement]:
        return placements(ShardOptions(shard_uds_path=self.prefix), world)

    def end(self) -> None:
        while self.all:
            with self.all.pop() as process:
                process.kill()


@pytest.fixture
def processes() -> Iterator[Processes]:
    with tempfile.TemporaryDirectory() as directory:  # pytest's own path may be too long for a socket
        processes = Processes(Path(directory))
        yield processes
        processes.end()


@asynccontextmanager
async def connected(processes: Processes, world: int = 1) -> AsyncIterator[GrpcShards]:
    shards = GrpcShards(processes.places(world), connect_timeout=10)
    try:
        await shards.connect()
        yield shards
    finally:
        await shards.close()


def prefill(step: int, id: int, prompt: list[int], new: int = 64) -> Plan:
    blocks = list(range(id * 100000, id * 100000 + (len(prompt) + new) // 16 + 1))
    return Plan(step, [id], [len(prompt)], [NewSequence(id, prompt, [blocks], SamplingParams(seed=7), 1 << 24)])


async def test_steps_over_two_ranks_pipelined(processes: Processes) -> None:
    processes.start(2)
    for rank in range(2):
        mode = Path(f"{processes.prefix}-{rank}").stat().st_mode
        assert stat.S_ISSOCK(mode) and stat.S_IMODE(mode) == 0o600
    plans = [prefill(0, 0, [1, 2, 3]), Plan(1, [0], [1]), prefill(2, 1, [4]), Plan(3, [0, 1], [1, 1])]
    model = FakeModel(replace(FAKE_INFO, groups=[replace(FAKE_INFO.groups[0], num_blocks=1 << 20)]))
    expected = [model.step(plan) for plan in plans]
    shards = GrpcShards(processes.places(2), connect_timeout=10)
    info = await shards.connect()
    assert info.groups[0].num_blocks == FAKE_INFO.groups[0].num_blocks - 1, "what the poorest rank has"
    await shards.health()
    await shards.send(plans[0])
    received = []
    for plan in plans[1:]:
        await shards.send(plan)
        received.append(await shards.receive())
    received.append(await shards.receive())
    assert [replace(outcome, wait_ns=0) for outcome in received] == expected
    await shards.close()


async def test_a_rank_on_another_node_wants_to_see_the_key(processes: Processes) -> None:
    port, key = free_port(), "0123456789abcdef"
    options = ShardOptions(shard_uds_path=processes.prefix, num_nodes=2, node_port=port - 1)
    places = placements(options, 2, ["127.0.0.1", "127.0.0.1"])
    processes.start(2, remote=[places[1].address, key])
    for wrong in (None, "fedcba9876543210"):
        stranger = GrpcShards(places, wrong, connect_timeout=10)
        words = rf"shard 1 \(node 1, 127.0.0.1:{port}\) does not answer .*its own service only"
        with pytest.raises(UnhealthyError, match=words):
            await stranger.connect()
        await stranger.close()
    for known in (GrpcShards(places, key, connect_timeout=10), GrpcShards(processes.places(2), connect_timeout=10)):
        await known.connect()
        await known.send(prefill(0, 0, [1, 2, 3]))
        assert (await known.receive()).ids == [0]
        await known.health()
        await known.close()


@pytest.mark.alone
async def test_the_shard_tells_how_long_it_waited_for_a_plan(processes: Processes) -> None:
    processes.start(1, delay=0.05)
    async with connected(processes) as shards:
        await shards.send(prefill(0, 0, [1, 2]))
        first = await shards.receive()
        await asyncio.sleep(0.1)
        await shards.send(Plan(1, [0], [1]))
        await shards.send(Plan(2, [0], [1]))  # it is there when the device is done with plan 1
        late, ready = await shards.receive(), await shards.receive()
    assert first.wait_ns == 0
    assert 0.1e9 < late.wait_ns < 1e9
    assert 0 < ready.wait_ns < 0.04e9


async def test_a_very_long_prompt(processes: Processes) -> None:
    processes.start(1)
    async with connected(processes) as shards:
        await shards.send(prefill(0, 0, list(range(100_000)) * 15))
        assert (await shards.receive()).counts == [1]


@pytest.mark.alone
async def test_the_death_of_any_rank_is_told_at_once(processes: Processes) -> None:
    processes.start(2, delay=0.2)
    async with connected(processes, 2) as shards:
        await shards.send(prefill(0, 0, [1]))
        await shards.receive()
        await shards.send(Plan(1, [0], [1]))
        processes.all[1].kill()
        killed = time.monotonic()
        with pytest.raises(GenerationError, match="shard 1 died"):
            while True:
                await shards.receive()
        assert time.monotonic() - killed < 0.5
        with pytest.raises(GenerationError, match="shard 1 died"):
            await shards.receive()
        with pytest.raises(UnhealthyError, match="shard 1 does not answer"):
            await shards.health()
        with pytest.raises(GenerationError, match="shard 1 died"):
            await shards.send(Plan(2, [0], [1]))


async def test_an_error_in_a_step_ends_the_process(processes: Processes) -> None:
    processes.start(1, fail_at=0)
    async with connected(processes) as shards:
        await shards.send(prefill(0, 0, [1]))
        with pytest.raises(GenerationError, match="shard 0"):
            await shards.receive()
    (process,) = processes.all
    _, stderr = await asyncio.to_thread(process.communicate, timeout=10)
    assert process.returncode == 1
    assert stderr.strip().endswith("RuntimeError: the device is gone")
    assert not Path(f"{processes.prefix}-0").exists()


async def test_sigterm_ends_cleanly_idle_and_while_working(processes: Processes) -> None:
    processes.start(2, delay=0.1)
    async with connected(processes, 2) as shards:
        await shards.send(prefill(0, 0, [1]))
        await shards.send(Plan(1, [0], [1]))
        for process in processes.all:
            process.send_signal(signal.SIGTERM)
        for process in processes.all:
            _, stderr = await asyncio.to_thread(process.communicate, timeout=10)
            assert (process.returncode, stderr) == (0, "")
    assert not list(Path(processes.prefix).parent.iterdir()), "no socket is left"


HANGING = """
import sys, time
from tgi_server.rpc import server, watch
from tgi_server.rpc.fake import FAKE_INFO
watch.STILL_LIMIT = 2.0
def step_that_hangs(plan):
    while True:
        time.sleep(0.5)
server.serve(sys.argv[1], FAKE_INFO, step_that_hangs, lambda: None, 0, watched=True)
"""


async def test_a_shard_gives_signs_of_life_and_says_where_it_hangs(processes: Processes) -> None:
    path = f"{processes.prefix}-0"
    process = subprocess.Popen([sys.executable, "-c", HANGING, path], stderr=subprocess.PIPE, text=True)
    processes.all.append(process)
    assert process.stderr is not None

    async def line() -> str:
        assert process.stderr is not None
        return (await asyncio.to_thread(process.stderr.readline)).strip()

    assert await line() == SIGN
    while not Path(path).exists():
        await asyncio.sleep(0.01)
    assert [await line() for _ in range(3)] == [SIGN] * 3, "it looks for work"
    async with connected(processes) as shards:
        await shards.health()
        await shards.send(prefill(0, 0, [1]))
        while (said := await line()) == SIGN:
            pass
        assert said.startswith(f"{HANGS}nothing was computed for "), said
        with pytest.raises(UnhealthyError, match="nothing was computed for"):
            await shards.health()
        process.send_signal(SHOW_STACKS)
        while "in step_that_hangs" not in await line():
            pass


async def test_a_second_router_is_refused_beside_the_first(processes: Processes) -> None:
    processes.start(1)
    async with connected(processes), connected(processes) as second:
        with pytest.raises(GenerationError, match="serves another router"):
            await second.receive()


@pytest.mark.parametrize("world", [1, 2])
async def test_a_router_takes_the_place_of_one_that_has_left(processes: Processes, world: int) -> None:
    processes.start(world)
    texts = []
    for _ in range(3):  # ids and steps begin again; the fake model would not take what it knows already
        async with connected(processes, world) as shards:
            await shards.send(prefill(0, 0, [1, 2]))
            await shards.send(Plan(1, [0], [1]))
            texts.append([(await shards.receive()).tokens, (await shards.receive()).tokens])
    assert texts[0] == texts[1] == texts[2]


async def test_what_a_router_did_not_wait_for_does_not_reach_the_next(processes: Processes) -> None:
    processes.start(1, delay=0.3)
    async with connected(processes) as shards:
        await shards.send(prefill(0, 0, [1, 2]))
    async with connected(processes) as shards:
        await shards.send(prefill(0, 0, [9, 9, 9]))
        outcome = await shards.receive()
    assert outcome.tokens == [FakeModel().step(prefill(0, 0, [9, 9, 9])).tokens[0]]


async def test_the_last_steps_of_a_router_are_waited_for_however_long_they_take(processes: Processes) -> None:
    processes.start(1, delay=0.5, handover=0.7)
    async with connected(processes) as shards:
        for plan in (prefill(0, 0, [1, 2]), Plan(1, [0], [1]), Plan(2, [0], [1]), Plan(3, [0], [1])):
            await shards.send(plan)
        await shards.receive()  # the others are there by then, and take longer than a handover
    async with connected(processes) as shards:
        await shards.send(prefill(0, 0, [9]))
        assert (await shards.receive()).tokens == FakeModel().step(prefill(0, 0, [9])).tokens


async def test_a_router_that_gives_up_waiting_is_in_nobodys_way(processes: Processes) -> None:
    processes.start(1)
    async with connected(processes), connected(processes):
        await asyncio.sleep(0.3)  # the second one waits for the first one to leave
    async with connected(processes) as shards:
        await shards.send(prefill(0, 0, [9]))
        assert (await shards.receive()).tokens == FakeModel().step(prefill(0, 0, [9])).tokens
    (process,) = processes.all
    process.send_signal(signal.SIGTERM)
    _, stderr = await asyncio.to_thread(process.communicate, timeout=10)
    assert (process.returncode, stderr) == (0, ""), "stopped while no router is there"


async def test_a_stale_socket_is_replaced_and_a_missing_one_waited_for(processes: Processes) -> None:
    shards = GrpcShards(processes.places(1), connect_timeout=10)
    connecting = asyncio.create_task(shards.connect())
    await asyncio.sleep(0.1)
    processes.start(1)
    assert await connecting == FAKE_INFO
    await shards.close()
    processes.end()
    assert Path(f"{processes.prefix}-0").exists(), "killed, it leaves its socket"
    stale = Path(f"{processes.prefix}-0").stat().st_ino
    processes.start(1)
    while Path(f"{processes.prefix}-0").stat().st_ino == stale:
        await asyncio.sleep(0.01)
    async with connected(processes) as again:
        await again.health()


async def test_a_shard_that_never_comes_is_named(processes: Processes) -> None:
    shards = GrpcShards(processes.places(1), connect_timeout=0.3)
    with pytest.raises(UnhealthyError, match=r"shard 0 does not answer on .*shard-0 within 0\.3 s"):
        await shards.connect()
    await shards.close()

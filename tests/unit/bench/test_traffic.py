"""Traffics: what files may say, whose words prompts have, when requests are sent."""

from __future__ import annotations

import asyncio
from itertools import islice
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.bench.test_http import CHUNKED, DONE, TOKEN, chunk, fake
from tgi_server.bench.load import measure
from tgi_server.bench.options import BenchOptions, Texts
from tgi_server.bench.traffic import SHIPPED, find
from tgi_server.bench.turns import Turns
from tgi_server.bench.workload import Request, Workload
from tgi_server.config.schema import BatchingOptions, ServerConfig
from tgi_server.errors import UsageError
from tgi_server.traffic import Asked, Traffic, parse, read, write

NAMES = ["agent", "chat", "code-complete", "mixed", "summarise"]
TREE = (
    Asked(3.0, 40, 2),
    Asked(1.0, 30, 3, 0, 20),
    Asked(5.0, 60, 4, 1, 30),
    Asked(6.0, 25, 5, 2, 25),
    Asked(7.0, 40, 6, 2, 10),
)


def lines(*requests: dict[str, Any]) -> bytes:
    return b"".join(orjson.dumps(request) + b"\n" for request in requests)


def words(request: Request) -> list[str]:
    return request.text.split()


def work(path: Path, lines: tuple[Asked, ...] = TREE, /, **options: Any) -> Workload:
    write(path / "t.jsonl", Traffic(lines))
    return Workload.of(BenchOptions(traffic=str(path / "t.jsonl"), **options))


def test_a_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    traffic = Traffic(TREE, "größer")
    write(tmp_path / "x", traffic)
    assert read(tmp_path / "x") == traffic
    assert parse(b'\xef\xbb\xbf{"at": 1, "prompt": 2, "new": 3}\r\n\n', "x") == Traffic((Asked(1.0, 2, 3),))


GOOD: dict[str, Any] = {"at": 0, "prompt": 9, "new": 1}
NO_TIMES: list[Any] = [-1, "1", None, True, 1e9, []]


@pytest.mark.parametrize(("data", "message"), [
    (b"", "has no requests"), (b'{"traffic": 1}\n', "has no requests"),
    (b"\xff\n", "line 1: not JSON in UTF-8"),
    (b"{}\n\n[1]\n", "line 1: at: "), (b"5", "line 1: expected a JSON object"),
    (lines({"traffic": 2}, GOOD), "line 1: traffic: version 1"), (lines({"traffic": True}, GOOD), "version 1"),
    (lines({"traffic": 1, "about": 3}, GOOD), "a text (about)"), (lines(GOOD, {"traffic": 1}), "line 2: 'traffic'"),
    (lines(GOOD | {"text": "x"}), "line 1: 'text' is not one of"),
    *[(lines(GOOD | {"at": at}), "line 1: at: ") for at in NO_TIMES],
    (b'{"at": 1e999, "prompt": 1, "new": 1}', "line 1: "),
    *[(lines(GOOD | {"prompt": n}), "line 1: prompt: ") for n in (0, -1, 1.5, "1", True, None, 1 << 40)],
    (lines(GOOD | {"new": 0}), "line 1: new: "), (lines(GOOD, GOOD | {"like": 0}), "line 2: like and shared"),
    (lines(GOOD, GOOD | {"shared": 1}), "line 2: like and shared"),
    (lines(GOOD, GOOD | {"like": 1, "shared": 1}), "line 2: like: "),
    (lines(GOOD, GOOD | {"like": -1, "shared": 1}), "line 2: like: "),
    (lines(GOOD, GOOD | {"like": False, "shared": 1}), "line 2: like: "),
    (lines(GOOD, GOOD | {"prompt": 99, "like": 0, "shared": 10}), "line 2: shared: "),
    (lines(GOOD | {"prompt": 99}, GOOD | {"like": 0, "shared": 10}), "line 2: shared: "),
    (lines(GOOD, GOOD | {"like": 0, "shared": 0}), "line 2: shared: "),
])  # fmt: skip
def test_mistakes_are_told_with_file_and_line(data: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(data)
    with pytest.raises(UsageError) as error:
        read(tmp_path / "x")
    assert str(error.value).startswith(str(tmp_path / "x")) and message in str(error.value)
    assert "\n" not in str(error.value)


VALUES = st.sampled_from(
    [*map(str, range(5)), "-1", "1.5", "1e99", "1e400", "null", "true", '"a"', "[]", "{}", str(9**99)]
)
LIKELY = st.dictionaries(st.sampled_from(["at", "prompt", "new", "like", "shared", "traffic", "about"]), VALUES)


@settings(deadline=None)
@given(st.binary() | st.lists(LIKELY, max_size=4).map(lambda told: "\n".join(map(written, told)).encode()))
def test_no_bytes_are_too_much(data: bytes) -> None:
    try:
        traffic = parse(data, "x")
    except UsageError:
        return
    assert len(traffic.pieces) == len(traffic.requests) and traffic.period > 0
    assert [pieces[-1][1] for pieces in traffic.pieces] == [asked.prompt for asked in traffic.requests]


def written(told: dict[str, str]) -> str:
    likely = {"at": "1", "prompt": "3", "new": "1"}
    return "{" + ", ".join(f'"{name}": {value}' for name, value in (likely | told).items()) + "}"


@pytest.mark.parametrize("path", ["/nowhere/x", "/", "/dev/zero", "nothing", "a\0b"])
def test_no_files(path: str) -> None:
    with pytest.raises(UsageError):
        find(path)


@pytest.mark.parametrize("name", NAMES)
def test_those_that_come_with_the_package(name: str) -> None:
    assert sorted(path.stem for path in SHIPPED.iterdir()) == NAMES
    traffic, limits = find(name), ServerConfig()
    assert isinstance(limits, BatchingOptions)
    assert 100 < len(traffic.requests) < 500 and traffic.about
    for asked in traffic.requests:
        assert asked.prompt < limits.max_input_length and asked.prompt + asked.new < limits.max_total_tokens


def test_prompts_share_exactly_the_words_that_they_should(tmp_path: Path) -> None:
    requests = list(islice(work(tmp_path, clients="1").asked("run 0"), 2 * len(TREE)))
    lines = [1, 0, 2, 3, 4]  # in the order of arrival
    of_line = {line: words(requests[place]) for place, line in enumerate(lines)}
    for line, asked in enumerate(TREE):
        mine = of_line[line]
        assert len(mine) == asked.prompt
        if asked.like is not None:
            other = of_line[asked.like]
            assert mine[: asked.shared] == other[: asked.shared]
            assert mine[asked.shared : asked.shared + 9] != other[asked.shared : asked.shared + 9] or len(mine) == 25
    assert [request.new_tokens for request in requests] == [3, 2, 4, 5, 6] * 2
    assert [request.prompt_tokens for request in requests] == [30, 40, 60, 25, 40] * 2


def test_ids_begin_alike_where_texts_do(tmp_path: Path) -> None:
    requests = list(islice(work(tmp_path, clients="1").asked("run 0"), len(TREE)))
    for one in requests:
        for other in requests:
            alike = same(one.prompt_ids(50_000), other.prompt_ids(50_000))
            assert alike <= same(words(one), words(other)) <= alike + 3  # of few words two may be equal by chance
    assert all(len(one.prompt_ids(9)) == one.prompt_tokens for one in requests)


def same(one: list[Any], other: list[Any]) -> int:
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def test_rounds_runs_and_seeds_have_words_of_their_own(tmp_path: Path) -> None:
    size = len(TREE)
    first = [words(request) for request in islice(work(tmp_path, clients="1").asked("run 0"), 2 * size)]
    again = [words(request) for request in islice(work(tmp_path, clients="1").asked("run 0"), 2 * size)]
    assert first == again
    others = [first[size:]]
    others.append([words(request) for request in islice(work(tmp_path, clients="1").asked("run 1"), size)])
    others.append([words(request) for request in islice(work(tmp_path, clients="1", seed=1).asked("run 0"), size)])
    assert all(same(mine, text) < 8 for other in others for text in other for mine in first[:size])


def test_arrivals_of_the_file(tmp_path: Path) -> None:
    twice = work(tmp_path, traffic_speed=2.0)
    assert (twice.closed, twice.clients) == (False, (256,))
    moments = [request.at for request in islice(twice.asked("run 0"), 7)]
    assert moments == [0.0, 1.0, 2.0, 2.5, 3.0, 3.75, 4.75]  # the mean gap, 0.75, before it begins again
    assert work(tmp_path).speed == 1.0 and not work(tmp_path).closed
    assert work(tmp_path, clients="8").closed
    random_moments = work(tmp_path, request_rate=5.0)
    moments = [request.at for request in islice(random_moments.asked("run 0"), 500)]
    assert moments[-1] == pytest.approx(100, rel=0.2)


def test_turns_of_a_conversation_follow_each_other() -> None:
    traffic = Traffic((Asked(0, 32, 1), Asked(1, 64, 1, 0, 32), Asked(2, 96, 1, 1, 64), Asked(3, 40, 1, 0, 16)))
    assert [traffic.follows(line) for line in range(4)] == [None, 0, 1, None]
    turns = Turns(Request(i, 1, None, ((i, 1),), (None, 0, 1, None)[i % 4], "") for i in range(4))
    one, other = turns.take(), turns.take()
    assert (one.number, other.number) == (0, 3)
    turns.done(one)
    two = turns.take()
    assert two.number == 1
    turns.done(two)
    assert turns.take().number == 2


async def test_a_closed_loop_of_more_clients_than_conversations(tmp_path: Path) -> None:
    talk = tuple(Asked(line, 32 * (line + 1), 1, line - 1 if line else None, 32 * line) for line in range(3))
    several = work(tmp_path, talk, clients="4", requests=12, warmup=0)
    async with fake(CHUNKED, chunk(TOKEN + DONE) + b"0\r\n\r\n") as (server, target):
        run = await asyncio.wait_for(measure(target, None, several, 4, 0, lambda *_: None), 20)
    assert len(run.records) == server.requests == 12
    assert all(record.error is None for record in run.records)


async def test_an_open_loop_of_a_file(tmp_path: Path) -> None:
    fast = work(tmp_path, traffic_speed=100.0, requests=5)
    async with fake(CHUNKED, chunk(TOKEN + DONE) + b"0\r\n\r\n") as (_, target):
        run = await measure(target, None, fast, 256, 0, lambda *_: None)
    assert [record.start for record in run.records] == pytest.approx([0.0, 0.02, 0.04, 0.05, 0.06])


@pytest.mark.parametrize(("options", "message"), [
    ({"prompts": "x"}, "prompts and traffic"), ({"new_tokens": 5}, "new_tokens and traffic"),
    ({"prompt_tokens": "5"}, "prompt_tokens and traffic"), ({"workload": Texts.ordinary}, "workload and traffic"),
    ({"traffic_speed": 2.0, "request_rate": 1.0}, "exclude"), ({"traffic_speed": 2.0, "clients": "1,2"}, "one number"),
    ({"traffic": None, "traffic_speed": 2.0}, "without traffic"), ({"traffic": "chatt"}, "agent, chat, code-complete"),
])  # fmt: skip
def test_options_that_say_two_things(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Workload.of(BenchOptions(**{"traffic": "chat", **options}))


def test_other_work_tells_what_it_knows_of_lengths() -> None:
    request = next(Workload.of(BenchOptions(prompt_tokens="9", new_tokens=4)).asked("run 0"))
    assert (len(words(request)), request.prompt_tokens, request.new_tokens, request.at) == (9, 9, 4, None)
    ordinary = next(Workload.of(BenchOptions(workload=Texts.ordinary)).asked("run 0"))
    assert ordinary.prompt_tokens is None and words(ordinary)

"""Launchers of several nodes that meet, in one process and on the loopback interface."""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.integration.server import free_port
from tgi_server.config.schema import DType, ServerConfig
from tgi_server.errors import ConfigError, ModelError, TgiError
from tgi_server.launcher import sockets
from tgi_server.launcher.nodes import agreement, first, link, other, role, several
from tgi_server.launcher.nodes.agreement import differences
from tgi_server.launcher.nodes.alone import Agreed, Alone
from tgi_server.launcher.nodes.first import First
from tgi_server.launcher.nodes.link import Link, UntrustedError
from tgi_server.launcher.nodes.other import Other
from tgi_server.launcher.origin import Model
from tgi_server.launcher.supervise import ChildFailedError, StopSignals

TOKEN = "0123456789abcdef"
NODE_1 = "node 1 (127.0.0.1, shard 1)"
FILES = {"model.safetensors": "7 bytes"}


def until(true: Callable[[], Any], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


class Nodes:
    """Those of one service, by their numbers."""

    def __init__(self, **options: Any) -> None:
        self.stops: dict[int, StopSignals] = {}
        self._options = {
            "num_nodes": 2, "num_shard": 2, "master_addr": "127.0.0.1", "node_port": free_port(), "node_token": TOKEN,
            "node_timeout": 3.0, "node_start_timeout": 10.0, **options,
        }  # fmt: skip

    @property
    def port(self) -> int:
        """Where node 0 listens."""
        return int(self._options["node_port"])

    def node(self, rank: int, **options: Any) -> Alone:
        stop = self.stops[rank] = StopSignals()
        config = ServerConfig(**{**self._options, "node_rank": rank, **options})
        return role.of(config, config.num_shard or 1, DType.float32, False, stop)


@contextmanager
def met(**options: Any) -> Iterator[tuple[Nodes, Alone, Alone]]:
    nodes = Nodes(**options)
    with nodes.node(0) as first, nodes.node(1) as other:
        yield nodes, first, other


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(several, "_FAREWELL", 0.1)


@pytest.fixture
def background() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor() as executor:
        yield executor


def test_one_node_asks_nobody() -> None:
    with Nodes(num_nodes=1).node(0) as alone:
        assert alone.agree(lambda: pytest.fail("nobody wants to know")) == Agreed([], None)
        assert alone.ready and alone.may_leave() and alone.problem is None


def test_they_meet_and_agree(background: ThreadPoolExecutor) -> None:
    with met() as (_, first, other):
        there: Future[Agreed] = background.submit(other.agree, lambda: FILES)
        here = first.agree(lambda: FILES)
        assert here == there.result() and here.hosts == ["127.0.0.1"] * 2
        assert here.key and here.key != TOKEN
        assert not first.ready and other.ready
        other.serving()
        until(lambda: first.ready)
        assert first.problem is other.problem is None


def test_the_order_in_which_they_come_is_free(background: ThreadPoolExecutor) -> None:
    nodes = Nodes()
    waiting = background.submit(nodes.node(1).__enter__)
    time.sleep(0.2)
    with nodes.node(0) as first:
        other = waiting.result()
        assert first.problem is other.problem is None
        other.__exit__(None, None, None)


def test_a_node_with_other_options_is_turned_away_until_it_has_the_same(caplog: pytest.LogCaptureFixture) -> None:
    nodes = Nodes()
    words = "max_total_tokens is 2048 on node 0, 999 on node 1"
    with nodes.node(0):
        with pytest.raises(ConfigError, match=rf"node 0 \(127.0.0.1\) does not take this node: {words}"):
            nodes.node(1, max_total_tokens=999, log_levels=["router=debug"]).__enter__()
        assert words in caplog.text and "log_levels" not in caplog.text
        with nodes.node(1, shard_uds_path="/tmp/elsewhere"), pytest.raises(ConfigError, match="is there already"):
            nodes.node(1).__enter__()


def test_a_node_with_another_token_is_turned_away(caplog: pytest.LogCaptureFixture) -> None:
    nodes = Nodes()
    with nodes.node(0):
        with pytest.raises(ConfigError, match=r"node_token: node 0 .* has another one"):
            nodes.node(1, node_token="fedcba9876543210").__enter__()
        until(lambda: "has another node_token" in caplog.text)


def test_strangers_are_in_nobodys_way(background: ThreadPoolExecutor, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    nodes = Nodes()
    with nodes.node(0) as first:
        address = "127.0.0.1", nodes._options["node_port"]
        with socket.create_connection(address) as silent, socket.create_connection(address) as loud:
            loud.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            with nodes.node(1) as other:
                background.submit(other.agree, lambda: FILES)
                assert first.agree(lambda: FILES).hosts
            silent.close()


def test_other_models_are_refused(background: ThreadPoolExecutor) -> None:
    nodes = Nodes()
    words = "model.safetensors is 7 bytes on node 0, 8 bytes on node 1"
    with nodes.node(0) as first, nodes.node(1) as other:
        there = background.submit(other.agree, lambda: {"model.safetensors": "8 bytes"})
        with pytest.raises(ModelError, match=words) as error:
            first.agree(lambda: FILES)
        first.__exit__(ModelError, error.value, None)
        with pytest.raises(TgiError, match=rf"node 0 \(127.0.0.1\): .*{words}"):
            there.result()


def test_a_node_that_is_lost_while_another_fetches_the_model_ends_that() -> None:
    with met() as (_, one, two):
        assert isinstance(one, First) and isinstance(two, Other)
        one.check()
        two._first._link.close()
        until(lambda: one.problem)
        with pytest.raises(ChildFailedError, match=r"node 1 .* has hung up"):
            one.check()


def test_who_waits_is_told_why(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(other, "REMINDER", 0.1)
    with pytest.raises(ConfigError, match="was not there"):
        Nodes(node_start_timeout=1).node(1).__enter__()
    assert "still calling node 0" in caplog.text and "refused" in caplog.text
    with pytest.raises(ConfigError, match=r"master_addr=x+\.com: not an address"):
        Nodes(master_addr=f"{'x' * 80}.com").node(1).__enter__()


def test_where_the_router_would_look_for_the_shards_is_tried_before_they_load(background: ThreadPoolExecutor) -> None:
    nodes = Nodes()
    port = nodes.port + 1
    with nodes.node(0) as one, nodes.node(1) as two, socket.create_server(("127.0.0.1", port)):
        there = background.submit(two.agree, lambda: FILES)
        one.agree(lambda: FILES)
        with pytest.raises(ConfigError, match=rf"node_port=.* port {port} of 127.0.0.1, which it cannot"):
            there.result()
    with pytest.raises(ConfigError, match=r"sees this node as 203.0.113.9, which is none of its addresses"):
        sockets.check_node(ServerConfig(num_nodes=2, node_rank=1), "203.0.113.9", 1)


def test_who_cannot_be_let_in_at_once_is_later(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(first, "_AGAIN", 0.01)
    accept, failures = socket.socket.accept, iter([OSError(24, "Too many open files")])

    def fails(self: socket.socket) -> Any:
        if (error := next(failures, None)) is not None:
            raise error
        return accept(self)

    monkeypatch.setattr(socket.socket, "accept", fails)
    with met() as (_, one, two):
        assert one.problem is two.problem is None
    assert "nobody can be let in: [Errno 24] Too many open files" in caplog.text


def test_a_stranger_that_says_a_little_now_and_then_is_sent_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(first, "GREETING", 0.5)
    nodes = Nodes()
    with nodes.node(0), socket.create_connection(("127.0.0.1", nodes.port)) as slow:
        deadline = time.monotonic() + 10
        with pytest.raises(OSError, match=r"Broken pipe|reset"):
            while time.monotonic() < deadline:
                slow.sendall(b"x")
                time.sleep(0.1)


@pytest.mark.parametrize(("rank", "words"), [
    (0, "node_start_timeout=0.2: node 1 has not come within this time"),
    (1, r"node_start_timeout=0.2: node 0 \(127.0.0.1, port \d+\) was not there within this time"),
])  # fmt: skip
def test_who_never_comes_is_named(rank: int, words: str) -> None:
    with pytest.raises(ConfigError, match=words), Nodes(node_start_timeout=0.2).node(rank) as node:
        node.agree(lambda: FILES)


def test_a_node_that_says_nothing_is_lost() -> None:
    with met(node_timeout=0.5) as (_, first, other):
        time.sleep(0.8)
        assert first.problem is None
        other._peers[0]._closed.set()  # type: ignore[attr-defined]  # it says nothing from now on
        began = time.monotonic()
        until(lambda: first.problem)
        assert first.problem == f"{NODE_1} has not answered for 0.5 s"
        assert time.monotonic() - began < 5
        first.end(first.problem)  # it may live all the same
        until(lambda: other.problem)
        assert other.problem == f"node 0 (127.0.0.1): {first.problem}"


def test_a_node_that_is_lost_is_named_to_all_others() -> None:
    nodes = Nodes(num_nodes=3, num_shard=3)
    with nodes.node(0) as first, nodes.node(1) as lost, nodes.node(2) as other:
        lost._peers[0]._link.close()  # type: ignore[attr-defined]
        until(lambda: first.problem)
        first.end(first.problem)
        until(lambda: other.problem)
        assert other.problem == f"node 0 (127.0.0.1): {first.problem}"
        assert first.problem is not None and first.problem.startswith(f"{NODE_1} has hung up")


def test_a_launcher_that_is_killed_is_noticed_at_once() -> None:
    with met(node_timeout=50.0) as (_, first, other):
        other._peers[0]._link.close()  # type: ignore[attr-defined]
        until(lambda: first.problem)
        assert first.problem == f"{NODE_1} has hung up without a word: its launcher was killed, or its machine"


def test_a_failure_is_told_with_its_cause(background: ThreadPoolExecutor) -> None:
    with met() as (nodes, first, other):
        there = background.submit(other.explained, "shard 1 was ended by signal 9")
        until(lambda: first.problem)
        assert first.problem == f"{NODE_1}: shard 1 was ended by signal 9"
        here = first.explained("router ended with exit code 1")
        assert here == f"router ended with exit code 1; {NODE_1}: shard 1 was ended by signal 9"
        node_0 = "node 0 (127.0.0.1): router ended with exit code 1"
        assert there.result() == f"shard 1 was ended by signal 9; {node_0}", "each has a failure of its own to tell"
        assert not nodes.stops[0].requested


def test_the_cause_is_told_though_the_other_node_has_noticed_first(background: ThreadPoolExecutor) -> None:
    with met() as (_, first, other):
        here = background.submit(first.explained, "shard 0: Connection closed by peer")
        until(lambda: other.problem)
        other.explained("shard 1 was ended by signal 9")
        assert here.result() == f"shard 0: Connection closed by peer; {NODE_1}: shard 1 was ended by signal 9"


def test_an_end_in_order_of_one_is_that_of_all() -> None:
    nodes = Nodes()
    with nodes.node(0) as first:
        other = nodes.node(1).__enter__()
        assert not other.may_leave()
        until(lambda: nodes.stops[0].requested)
        assert not other.may_leave(), "requests may still run"
        first.end(None)
        until(other.may_leave)
        assert other.problem is None and nodes.stops[1].requested
        other.__exit__(None, None, None)


def test_a_node_that_is_stopped_while_others_load_stops_these() -> None:
    nodes = Nodes()
    with nodes.node(0) as first:
        with nodes.node(1):
            pass
        until(lambda: nodes.stops[0].requested)
        assert first.problem is None


def test_a_line_that_somebody_changes_is_not_believed(background: ThreadPoolExecutor) -> None:
    left, right = socket.socketpair(socket.AF_UNIX)
    with left, right, pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "getpeername", lambda self: ("somewhere",))
        patch.setattr(socket.socket, "getsockname", lambda self: ("somewhere",))
        caller = background.submit(Link, left, TOKEN.encode(), True)
        called = Link(right, TOKEN.encode(), calls=False)
        caller.result().say("over", reason=None)
        assert called.hear() == {"kind": "over", "reason": None}
        proof = link.signed(called._key, 'caller 0 {"kind": "over"}')
        left.sendall(f'{proof} {{"kind": "over"}}\n'.encode())  # said before
        with pytest.raises(UntrustedError):
            called.hear()


def test_the_token_may_be_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    assert link.token(ServerConfig(node_token_file=str(tmp_path / "token"))) == TOKEN.encode()
    for text, words in [("short", "at least 16 characters"), ("", "at least 16 characters")]:
        (tmp_path / "token").write_text(text)
        with pytest.raises(ValueError, match=words):
            link.token(ServerConfig(node_token_file=str(tmp_path / "token")))
    with pytest.raises(ValueError, match="cannot be read: No such file"):
        link.token(ServerConfig(node_token_file=str(tmp_path / "nowhere")))


def test_what_files_say_of_a_model(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model-00001-of-00001.safetensors").write_bytes(b"1234567")
    (tmp_path / "notes.txt").write_text("of no interest")
    facts = agreement.of_files(Model(tmp_path))
    weights = facts["model-00001-of-00001.safetensors"]
    assert facts["config.json"] == "44136fa355b3678a" and weights.startswith("7 bytes (")
    assert len(facts) == 2
    large = tmp_path / "model-00001-of-00001.safetensors"
    for place in (0, (5 << 20) - 1):  # in the first and the last sample
        with large.open("wb") as file:
            file.truncate(5 << 20)
        before = agreement.of_files(Model(tmp_path))
        with large.open("r+b") as file:
            file.seek(place)
            file.write(b"x")
        assert differences(before, agreement.of_files(Model(tmp_path)), 1)


def test_what_each_node_may_have_otherwise() -> None:
    facts = agreement.of_options(ServerConfig(num_nodes=2), 2, DType.float32, gpu=True)
    assert not {"model_id", "node_rank", "shard_uds_path", "master_addr", "log_level", "node_token", "api_key"} & {
        *facts
    }
    assert {"num_nodes", "num_shard", "dtype", "max_total_tokens", "quantize", "master_port", "node_port"} <= {*facts}
    assert facts["device"] == "gpu" and facts["shutdown_timeout"] == "90.0"

"""A model over two nodes: this machine's own network, and a network namespace as another machine."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.integration.server import Server, free_port
from tests.integration.test_node_launchers import node_port

TIMEOUT = 4
"""Seconds after which a node is lost."""
PROMPTS = ["The capital of France is", "日本の首都は"]


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


@dataclass
class Machine:
    """Another one, as far as the network is concerned, with a link to this one."""

    namespace: str
    link: str
    here: str
    there: str

    def cut(self) -> None:
        """Nothing passes the link any more, and nobody is told."""
        ip("link", "set", self.link, "down")


@pytest.fixture
def machine() -> Iterator[Machine]:
    number = os.getpid() % 16384  # a network of four addresses each, of those that are there for tests (RFC 2544)
    network = f"198.18.{number // 64}.{number % 64 * 4}".rpartition(".")
    here, there = (f"{network[0]}.{int(network[2]) + host}" for host in (1, 2))
    found = Machine(f"tgi-{os.getpid()}", f"tgi{os.getpid()}", here, there)
    try:
        ip("netns", "add", found.namespace)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no network namespaces here: {getattr(error, 'stderr', error)}")
    try:
        ip("link", "add", found.link, "type", "veth", "peer", "name", "node", "netns", found.namespace)
        ip("addr", "add", f"{here}/30", "dev", found.link)
        ip("link", "set", found.link, "up")
        ip("-n", found.namespace, "addr", "add", f"{there}/30", "dev", "node")
        ip("-n", found.namespace, "link", "set", "node", "up")
        ip("-n", found.namespace, "link", "set", "lo", "up")
        yield found
    finally:
        ip("netns", "del", found.namespace)  # with the link


@pytest.mark.alone
def test_two_nodes_write_the_same_text_and_a_cut_link_ends_both(
    float32_server: Server, machine: Machine, tmp_path: Path
) -> None:
    token = tmp_path / "token"
    token.write_text("0123456789abcdef\n")
    shared = [
        "model=smollm2", "dtype=float32", "max_total_tokens=2000", "num_nodes=2", "num_shard=2",
        f"master_addr={machine.here}", f"master_port={free_port()}", f"node_port={node_port()}",
        f"node_token_file={token}", f"node_timeout={TIMEOUT}",
    ]  # fmt: skip
    command = [
        "ip", "netns", "exec", machine.namespace, sys.executable, "-m", "tgi_server", *shared, "node_rank=1",
        f"shard_uds_path={tmp_path}/other",
    ]  # fmt: skip
    log = tmp_path / "log"
    with log.open("wb") as output, subprocess.Popen(command, stdout=output, stderr=output) as other:
        try:
            with Server(*shared) as first:
                for prompt in PROMPTS:
                    texts = [server.generate(prompt, max_new_tokens=8) for server in (first, float32_server)]
                    assert texts[0]["generated_text"] == texts[1]["generated_text"]
                told, lasted = _cut_within_a_stream(first, machine)
                assert '"error_type":"generation"' in told
                assert lasted < TIMEOUT + 5
                assert first.process.wait(10) == 1
                shard = f"node 1 ({machine.there}, shard 1)"
                assert f"Error: {shard} has not answered for {TIMEOUT} s\n" in first.output
            assert other.wait(10) == 1
            assert f"Error: node 0 ({machine.here}) has not answered for {TIMEOUT} s\n" in log.read_text()
        finally:
            other.kill()


def _cut_within_a_stream(server: Server, machine: Machine) -> tuple[str, float]:
    """The last line of a stream whose text is under way when the link is cut, and the seconds until it came."""
    body = {"inputs": PROMPTS[0], "parameters": {"max_new_tokens": 1000, "ignore_eos_token": True}}
    began, last = None, ""
    with server.client.stream("POST", "/generate_stream", json=body) as answer:
        for line in answer.iter_lines():
            last = line or last
            if line and began is None:
                began = time.monotonic()
                machine.cut()
    assert began is not None
    return last, time.monotonic() - began

"""The beginning of a prompt as keys."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tgi_server.replicas.prompt import CHUNK, LONGEST, keys, keys_of

LONG = "once upon a time there was a server that had many replicas; " * 8


def of(**body: Any) -> list[int]:
    return keys(json.dumps(body).encode())


def common(one: list[int], other: list[int]) -> int:
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def test_equal_beginnings_have_equal_keys_up_to_the_chunk_that_differs() -> None:
    text = LONG.encode()
    other = text[:200] + b"X" + text[201:]
    assert common(keys_of(text), keys_of(other)) == 200 // CHUNK
    assert keys_of(text)[-1] != keys_of(other)[-1]  # what follows is equal, its beginning is not
    assert len(keys_of(text)) == len(text) // CHUNK


def test_keys_are_the_same_in_every_process() -> None:
    assert keys_of(b"a" * CHUNK) == [-1966203799259706004]


@pytest.mark.parametrize("field", ["inputs", "prompt", "input"])
def test_every_api_has_its_field(field: str) -> None:
    assert of(**{field: LONG}) == keys_of(LONG.encode())
    assert of(**{field: LONG}, model="any", stream=True) == keys_of(LONG.encode())


def test_a_conversation_that_goes_on_begins_as_before() -> None:
    before = [{"role": "user", "content": LONG}]
    after = [*before, {"role": "assistant", "content": "yes"}, {"role": "user", "content": "more"}]
    assert common(of(messages=before), of(messages=after)) >= len(of(messages=before)) - 1
    assert len(of(messages=before)) > 5


def test_tools_and_instructions_come_first() -> None:
    asked = [{"role": "user", "content": LONG}]
    assert common(of(messages=asked, system=LONG), of(messages=[], system=LONG)) >= len(LONG) // CHUNK
    assert common(of(messages=asked, tools=[{"name": LONG}]), of(messages=asked)) == 0


@pytest.mark.parametrize(
    "body", [b"", b"no json", b"[1]", b'"text"', b"{}", b'{"inputs": 3}', b'{"inputs": ""}', b"\xff"]
)
def test_other_bodies_have_none(body: bytes) -> None:
    assert keys(body) == []


@pytest.mark.parametrize("depth", [200, 253, 254, 255, 256, 300, 1000, 5000])
def test_any_depth(depth: int) -> None:
    assert isinstance(keys(b'{"messages":' + b"[" * depth + b"]" * depth + b"}"), list)


def test_half_characters_and_endless_texts() -> None:
    assert len(keys(json.dumps({"inputs": "\ud800" * 100}).encode())) in (0, 4)
    assert len(of(inputs="x" * (CHUNK * (LONGEST + 9)))) == LONGEST

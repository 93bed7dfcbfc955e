"""Events come out whole, however the bytes were cut."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tgi_server.bench.sse import EventReader

STREAM = b': hello\n\ndata: {"a": 1}\n\nevent: x\ndata:{"b": "\xc3\xa9"}\r\n\r\ndata: [DONE]\n\n'
EVENTS = [b'{"a": 1}', b'{"b": "\xc3\xa9"}', b"[DONE]"]


def read(pieces: list[bytes]) -> list[bytes]:
    events: list[bytes] = []
    reader = EventReader(events.append)
    for piece in pieces:
        reader.feed(piece)
    return events


@given(st.lists(st.integers(0, len(STREAM))))
def test_cut_anywhere(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(STREAM)]
    assert read([STREAM[a:b] for a, b in pairwise(edges)]) == EVENTS


@pytest.mark.parametrize("size", [1, 7])
def test_in_small_pieces(size: int) -> None:
    assert read([STREAM[at : at + size] for at in range(0, len(STREAM), size)]) == EVENTS


def test_a_line_without_end_is_refused() -> None:
    with pytest.raises(ConnectionError, match="1 MiB"):
        read([b"data: " + b"x" * (1 << 20)])


def test_an_event_is_there_with_its_line_and_not_before() -> None:
    assert read([b"data: x"]) == []
    assert read([b"data: x", b"\n"]) == [b"x"]

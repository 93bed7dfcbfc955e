import pytest
from hypothesis import given
from hypothesis import strategies as st

from tgi_server.engine.stopping import StopMatcher


def first_end(stops: list[str], text: str) -> tuple[int, int] | None:
    """The definition: the first character after which a stop sequence is complete, and the longest of those."""
    for end in range(1, len(text) + 1):
        ending = [stop for stop in stops if text[:end].endswith(stop)]
        if ending:
            return end - max(map(len, ending)), end
    return None


def longest_open(stops: list[str], text: str) -> int:
    prefixes = {stop[:length] for stop in stops for length in range(1, len(stop))}
    return max((len(prefix) for prefix in prefixes if text.endswith(prefix)), default=0)


@given(
    stops=st.lists(st.text("ab", min_size=1, max_size=5), max_size=3),
    pieces=st.lists(st.text("abc", max_size=4), max_size=12),
)
def test_any_split_finds_what_the_definition_says(stops: list[str], pieces: list[str]) -> None:
    matcher = StopMatcher(stops)
    expected = first_end(stops, "".join(pieces))
    seen = 0
    for piece in pieces:
        match = matcher.feed(piece)
        if match is not None:
            assert (match[0] + seen, match[1] + seen) == expected
            return
        seen += len(piece)
        assert matcher.undecided == longest_open(stops, "".join(pieces)[:seen])
    assert expected is None


def test_an_empty_stop_sequence_is_refused() -> None:
    with pytest.raises(ValueError, match="must not be empty"):
        StopMatcher(["a", ""])

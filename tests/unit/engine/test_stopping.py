import pytest
from hypothesis import given
from hypothesis import strategies as st

from tgi_server.engine.stopping import StopMatcher
from tgi_server.types import Mark


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
            assert matcher.matched == "".join(pieces)[slice(*expected)]
            return
        seen += len(piece)
        assert matcher.undecided == longest_open(stops, "".join(pieces)[:seen])
    assert expected is None


@given(
    stops=st.lists(st.text("ab<", min_size=1, max_size=4), max_size=3),
    mark=st.builds(Mark, st.text("ab<", min_size=1, max_size=4), first=st.booleans()),
    pieces=st.lists(st.text("abc<", max_size=4), max_size=12),
)
def test_only_what_is_before_the_mark_is_searched(stops: list[str], mark: Mark, pieces: list[str]) -> None:
    whole = "".join(pieces)
    at = 0 if whole.startswith(mark.text) else -1 if mark.first else whole.find(mark.text)
    expected = first_end(stops, whole if at < 0 else whole[:at])
    matcher, seen = StopMatcher(stops, mark), 0
    for number, piece in enumerate(pieces, 1):
        match = matcher.feed(piece, last=number == len(pieces))
        if match is not None:
            assert (match[0] + seen, match[1] + seen) == expected
            return
        seen += len(piece)
        if expected is not None and expected[1] <= seen:
            assert matcher.undecided == seen - expected[0], "it is held back until the mark is decided"
    assert expected is None


def test_a_stop_sequence_counts_once_it_is_no_part_of_the_mark() -> None:
    matcher = StopMatcher(["\n"], Mark("\n<call>"))
    assert matcher.feed("So:\n<ca") is None and matcher.undecided == 4
    assert matcher.feed("se>") == (-4, -3)
    matcher = StopMatcher(["\n"], Mark("\n<call>"))
    assert matcher.feed("So:\n<call>\n") is None and matcher.undecided == 0
    matcher = StopMatcher(["\n"])
    matcher.close()
    assert matcher.feed("a\nb", last=True) is None


def test_an_empty_stop_sequence_is_refused() -> None:
    with pytest.raises(ValueError, match="must not be empty"):
        StopMatcher(["a", ""])

"""The index of a text, and the passage it repeats, against plain searches."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tgi_server.speculate.history import LONGEST, History
from tgi_server.speculate.passage import BEGUN, CHANGES, Passage

TEXTS = st.lists(st.integers(0, 3), min_size=1, max_size=60)


def common(ids: Sequence[int], end: int) -> int:
    """How many ids up to `end` are the newest ones, as far as it matters."""
    length = 0
    while length < min(LONGEST, end + 1) and ids[end - length] == ids[-1 - length]:
        length += 1
    return length


@settings(max_examples=200, deadline=None)
@given(ids=TEXTS, lengths=st.sets(st.integers(1, 9), min_size=1), pieces=st.integers(1, 20), most=st.integers(1, 5))
def test_matches_are_those_of_a_plain_search(ids: list[int], lengths: set[int], pieces: int, most: int) -> None:
    history = History(sorted(lengths))
    for n in [*range(pieces, len(ids), pieces), len(ids)]:
        history.extend(np.array(ids[:n]))
    ends = {end: common(ids, end) for end in range(len(ids) - 1)}
    longest = max((length for length in lengths if any(ends[end] >= length for end in ends)), default=0)
    places = [(end, length) for end, length in ends.items() if 0 < longest <= length][::-1]
    assert history.matches(most) == places[:most]


def test_a_text_goes_on_behind_its_end_as_from_the_match() -> None:
    history = History([1])
    history.extend(np.array([7, 1, 2, 3, 1]))
    assert history.matches(1) == [(1, 1)]
    assert history.following(1, 2) == [2, 3] and history.following(1, 8) == [2, 3, 1, 2, 3, 1, 2, 3]


ORIGINAL = list(range(100, 160))


def following(text: Sequence[int]) -> list[int | None]:
    """What is expected after each id of a text that repeats the original; None where nothing is."""
    ids, passage, expected = [*ORIGINAL, 1, *text[:BEGUN]], Passage(), list[int | None]()
    passage.begin([(BEGUN - 1, BEGUN)])
    for id in text[BEGUN:]:
        expected.append(ids[passage.end + 1] if passage.end >= 0 else None)
        ids.append(id)
        passage.follow(ids, len(ids) - 1)
    return expected


def test_a_replaced_id_is_passed_over() -> None:
    text = [*ORIGINAL[:10], 2, *ORIGINAL[11:20]]
    assert following(text) == ORIGINAL[BEGUN:20]


def test_one_replaced_by_several_is_found_again() -> None:
    text = [*ORIGINAL[:10], 2, 3, 4, *ORIGINAL[11:20]]
    expected = following(text)
    assert expected[expected.index(ORIGINAL[12]) :][-8:] == ORIGINAL[12:20]
    assert sum(a != b for a, b in zip(expected, text[BEGUN:], strict=True)) <= 4


def test_ids_left_out_are_skipped() -> None:
    text = [*ORIGINAL[:10], *ORIGINAL[14:30]]
    assert following(text) == [*ORIGINAL[BEGUN:11], *ORIGINAL[15:30]]


def test_it_is_found_again_behind_the_change_and_not_before() -> None:
    original = [*range(100, 110), 5, *range(110, 120), 5, *range(120, 130)]
    ids, passage = [*original, *original[:14]], Passage()
    passage.begin([(9, 10)])
    passage.follow(ids, len(original) + 10)
    assert passage.end == 13
    ids += [2, 3, *original[18:20]]
    passage.follow(ids, len(ids) - 4)
    assert (passage.end, passage.length) == (19, 2), "three were replaced by two"
    ids.append(5)
    passage.follow(ids, len(ids) - 1)
    assert passage.end == 21, "one was left out, and the 5 before does not count"


def test_ids_put_in_are_waited_for() -> None:
    text = [*ORIGINAL[:10], 2, 3, *ORIGINAL[10:20]]
    assert following(text)[-9:] == ORIGINAL[11:20]


def test_another_text_is_not_followed_for_long() -> None:
    text = [*ORIGINAL[:10], *range(2, 10)]
    assert following(text)[-3:] == [None] * 3 and following(text)[-8 + CHANGES] is not None


def test_a_longer_match_elsewhere_is_followed_instead() -> None:
    passage = Passage()
    passage.begin([(20, BEGUN - 1)])
    assert passage.end == -1
    passage.begin([(20, BEGUN), (10, BEGUN)])
    assert (passage.end, passage.length) == (20, BEGUN)
    passage.begin([(30, BEGUN), (40, BEGUN + 1)])
    assert (passage.end, passage.length) == (40, BEGUN + 1)

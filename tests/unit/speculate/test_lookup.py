"""N-gram and suffix drafters: what they guess, how likely they think it is, and what they learn."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tgi_server.speculate.base import Drafter, Speculation
from tgi_server.speculate.ngram import NGram
from tgi_server.speculate.suffix import Suffix

PARTS: list[Speculation] = [NGram(), Suffix(), NGram(longest=1), Suffix(1)]
NOTHING: Any = None
"""What these drafters need of the model."""
MAKERS: list[Callable[[], Drafter]] = [partial(part.drafter, NOTHING) for part in PARTS]
NAMES = ["ngram", "suffix", "ngram of one", "suffix of one place"]
each = pytest.mark.parametrize("make", MAKERS, ids=NAMES)
TEXTS = st.lists(st.integers(0, 5), min_size=2, max_size=80)
REQUEST = 7


def replay(drafter: Drafter, ids: Sequence[int], begin: int, most: int = 8) -> list[tuple[list[float], list[int]]]:
    """Follow a text, one token a step from its first `begin` ones on: what is told and offered in each step."""
    array, told = np.array(ids), []
    for n in range(begin, len(ids)):
        chances = [*drafter.chances(REQUEST, array[:n], most)]
        told.append((chances, drafter.guess({REQUEST: len(chances)})[REQUEST]))
        drafter.learn(REQUEST, [ids[n]])
    return told


def random_ids(n: int, seed: int = 0) -> list[int]:
    ids: list[int] = np.random.default_rng(seed).integers(0, 40_000, n).tolist()
    return ids


@each
@settings(max_examples=60, deadline=None)
@given(ids=TEXTS, most=st.integers(0, 9))
def test_of_any_text(make: Callable[[], Drafter], ids: list[int], most: int) -> None:
    for n, (chances, guesses) in enumerate(replay(make(), ids, 1, most), 1):
        assert len(guesses) == len(chances) <= most
        assert all(0 < chance < 1 for chance in chances)
        assert set(guesses) <= set(ids[:n])
        if most and ids[n - 1] in ids[: n - 1]:
            assert guesses, "even one id that was there before is enough"


@each
@settings(max_examples=30, deadline=None)
@given(ids=TEXTS, other=TEXTS)
def test_nothing_of_another_text_matters(make: Callable[[], Drafter], ids: list[int], other: list[int]) -> None:
    alone, beside = make(), make()
    expected = replay(alone, ids, 1)
    for n in range(1, len(other)):
        beside.chances(1, np.array(other[:n]), 4)
        beside.learn(1, other[n : n + 1])
    assert replay(beside, ids, 1) == expected


@each
@settings(max_examples=30, deadline=None)
@given(ids=TEXTS, gaps=st.lists(st.integers(1, 9), min_size=1, max_size=8))
def test_being_asked_seldom_finds_the_same_guesses(
    make: Callable[[], Drafter], ids: list[int], gaps: list[int]
) -> None:
    often = dict(enumerate(replay(make(), ids, 1), 1))
    drafter, n = make(), 1
    for gap in gaps:
        if n in often:
            most = len(drafter.chances(REQUEST, np.array(ids[:n]), 8))
            guesses = drafter.guess({REQUEST: most})[REQUEST]
            shared = min(most, len(often[n][1]))
            assert guesses[:shared] == often[n][1][:shared]
        n += gap


@each
@pytest.mark.parametrize("period", [1, 2, 3, 7])
def test_a_periodic_text_goes_on_beyond_its_end(make: Callable[[], Drafter], period: int) -> None:
    passage = random_ids(period)
    ids = passage * 60
    chances, guesses = replay(make(), ids, 2 * period)[-1]
    assert guesses == [passage[-1], *ids[:7]] and min(chances) > 0.9


@each
def test_a_copy_is_followed_and_its_chances_rise(make: Callable[[], Drafter]) -> None:
    passage = random_ids(120)
    told = replay(make(), [*passage, *random_ids(50, seed=1), *passage], 171)
    assert all(guesses == passage[i + 1 : i + 1 + len(guesses)] for i, (_, guesses) in enumerate(told) if i < 100)
    first = [chances[0] for chances, _ in told]
    assert first[0] < 0.5 and first[8] > 0.8 and first[60] > 0.95
    rising = told[0][0]
    assert rising == sorted(rising), "the longer the run of right guesses, the longer what matches"


@each
def test_chances_fall_where_matches_mean_nothing(make: Callable[[], Drafter]) -> None:
    told = replay(make(), np.random.default_rng(0).integers(0, 30, 400).tolist(), 100)
    gains = [sum(np.cumprod(chances)) for chances, _ in told]
    assert np.mean(gains[:5]) > 2 * np.mean(gains[-100:]) and np.mean(gains[-100:]) < 0.1


@each
def test_chances_are_what_comes_true(make: Callable[[], Drafter]) -> None:
    """A text that repeats what it has been at 70 % of the places where it could."""
    rng, ids = np.random.default_rng(0), random_ids(60)
    while len(ids) < 1500:
        start = int(rng.integers(0, len(ids) - 20))
        length = 1 + int(rng.geometric(0.3))
        ids += ids[start : start + length] if rng.random() < 0.8 else random_ids(length, seed=len(ids))
    told = replay(make(), ids, 300)
    firsts = [(chances[0], guesses[0] == ids[n]) for n, (chances, guesses) in enumerate(told, 300) if chances]
    said, right = np.array(firsts, dtype=float).T
    assert abs(said.mean() - right.mean()) < 0.05
    likely = said > 0.5
    assert likely.sum() > 10 and abs(said[likely].mean() - right[likely].mean()) < 0.1


@each
def test_a_run_of_right_guesses_teaches_as_much_as_its_steps(make: Callable[[], Drafter]) -> None:
    ids = np.array(random_ids(50) * 2)
    steps, runs = make(), make()
    for n in range(60, 64):
        steps.chances(0, ids[:n], 4)
        steps.learn(0, [int(ids[n])])
    assert len(runs.chances(0, ids[:60], 4)) == 4
    runs.learn(0, ids[60:64].tolist())
    assert runs.chances(0, ids[:64], 4) == pytest.approx(steps.chances(0, ids[:64], 4), abs=0.02)


@each
def test_a_text_takes_little_memory_until_it_is_over(make: Callable[[], Drafter]) -> None:
    ids, drafter = np.array(random_ids(5000)), make()
    tracemalloc.start()
    try:
        drafter.chances(REQUEST, ids, 8)
        assert memory_of_speculation() < 600 * len(ids)
        drafter.forget(REQUEST)
        drafter.forget(REQUEST + 1)
        assert memory_of_speculation() < 5_000
    finally:
        tracemalloc.stop()


def memory_of_speculation() -> int:
    """Bytes that its modules have asked for; what other threads of the process do meanwhile is not its matter."""
    gc.collect()
    ours = tracemalloc.Filter(True, "*/tgi_server/speculate/*")
    return sum(trace.size for trace in tracemalloc.take_snapshot().filter_traces([ours]).traces)


def guesses(part: Speculation, ids: Sequence[int], most: int = 4) -> list[int]:
    drafter = part.drafter(NOTHING)
    return drafter.guess({0: len(drafter.chances(0, np.array(ids), most))})[0]


def test_the_longer_match_is_worth_more_than_a_later_one_but_not_more_than_several() -> None:
    long, short, end = [1, 2, 3, 4, 50, 51, 52], [9, 2, 3, 4, 60, 61, 62], [1, 2, 3, 4]
    assert guesses(Suffix(), [*long, *short, *end], 3)[:2] == [50, 51]
    assert guesses(Suffix(1), [*long, *short, *end], 3)[:2] == [50, 51], "four ids are looked up together"
    assert guesses(NGram(3), [*long, *short, *end], 3)[:2] == [50, 51]
    assert guesses(NGram(2), [*short, *long, *short[1:], 8, 3, 4])[0] == 60, "the latest one"
    long, short, end = [7, 3, 4, 50, 51, 52], [3, 4, 60, 61, 62], [7, 3, 4]
    assert guesses(Suffix(), [*long, *short, *end])[0] == 50
    assert guesses(Suffix(), [*long, *short, 8, *short, 9, *short, *end])[0] == 60


def test_further_guesses_are_of_the_places_that_were_for_the_first() -> None:
    ids = [3, 4, 60, 52, 3, 4, 50, 52, 8, 3, 4, 50, 51, 9, 3, 4]
    assert guesses(Suffix(), ids)[:2] == [50, 51]


@each
def test_a_copy_goes_on_behind_a_changed_id(make: Callable[[], Drafter]) -> None:
    original = random_ids(60)
    told = replay(make(), [*original, 7, 8, 9, *original[:20], 7, *original[21:40]], 64)
    before, changed = told[18][1], told[20][1]
    assert before[:3] == original[19:22] and changed[:3] == original[21:24], "not 8, 9"


@each
def test_what_comes_behind_a_wrong_guess_teaches_nothing(make: Callable[[], Drafter]) -> None:
    ids = np.array(random_ids(30) * 2)[:40]
    told = []
    for behind in (False, True):
        drafter = make()
        offered = len(drafter.chances(0, ids, 4))
        first, second, *_ = drafter.guess({0: offered})[0]
        drafter.learn(0, [first + 1, second] if behind else [first + 1])
        told.append([*drafter.chances(0, ids, 4)])
    assert told[0] == told[1]


@each
def test_what_asking_takes_is_measured_and_leaves_nothing(make: Callable[[], Drafter]) -> None:
    drafter = make()
    one, many = (min(drafter.seconds(count) for _ in range(5)) for count in (1, 30))
    assert 0 < one < 0.01 and one < many
    assert drafter.chances(-1, np.array([3, 4]), 4) == [], "what was measured with is forgotten"

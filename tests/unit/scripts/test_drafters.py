"""Texts replayed as if guesses cost a tenth of a step: what looking them up is worth, in words instead of tokens."""

from __future__ import annotations

import re
from functools import cache

import pytest

from scripts.measure_drafters import DRAFTERS, replay, texts, width

REPETITIVE = {"edited code", "edited code, again", "copied paragraph", "records", "records, indented"}
ORDINARY = {"new code", "licence", "prose", "prose, again"}
COST = 0.1


@cache
def words() -> dict[str, tuple[list[int], list[int]]]:
    """Prompt and text of each, as numbers of their words."""
    numbers = dict[str, int]()

    def ids(part: str) -> list[int]:
        return [numbers.setdefault(word, len(numbers)) for word in re.findall(r"\w+|\s+|.", part)]

    return {name: (ids(prompt), ids(text)) for name, prompt, text in texts()}


def test_the_texts_are_all_known() -> None:
    assert set(words()) == REPETITIVE | ORDINARY


@pytest.mark.parametrize("drafter", DRAFTERS)
@pytest.mark.parametrize("name", sorted(REPETITIVE))
def test_repetitive_texts_gain(drafter: str, name: str) -> None:
    assert replay(DRAFTERS[drafter](), *words()[name], 8, COST).gain(COST) > 1.8


@pytest.mark.parametrize("drafter", DRAFTERS)
@pytest.mark.parametrize("name", sorted(ORDINARY))
@pytest.mark.parametrize("cost", [COST, 0.5])
def test_ordinary_texts_lose_nothing(drafter: str, name: str, cost: float) -> None:
    assert replay(DRAFTERS[drafter](), *words()[name], 8, cost).gain(cost) > 0.97


def test_nothing_is_guessed_where_it_cannot_pay() -> None:
    assert width([0.9] * 8, 1.0) == 0
    assert width([0.5, 0.9, 0.1], 0.3) == 2
    assert width([], 0.1) == 0

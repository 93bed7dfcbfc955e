"""Prompts that are made up: different ones, and those that ask for a repetition have what is to be repeated."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Iterator

import pytest

from tgi_server.bench import prompts

Maker = Callable[[random.Random], str]
TIMES = 200


def made(maker: Maker) -> Iterator[str]:
    for seed in range(TIMES):
        yield maker(random.Random(seed))


MAKERS = [prompts.ordinary, prompts.edited_code, prompts.copied_records, prompts.copied_paragraph]


@pytest.mark.parametrize("maker", MAKERS)
def test_prompts_differ_and_come_again_with_their_seed(maker: Maker) -> None:
    texts = list(made(maker))
    assert len(set(texts)) > 0.99 * TIMES
    assert texts == list(made(maker))
    assert not any("{name" in text or "{number" in text for text in texts)


def test_repetitive_ones_are_of_each_kind_in_turns() -> None:
    texts = [prompts.repetitive(random.Random(7), number) for number in range(6)]
    assert texts[:3] == texts[3:] == [maker(random.Random(7)) for maker in MAKERS[1:]]


def test_code_is_code_and_begins_again_with_the_new_name() -> None:
    for text in made(prompts.edited_code):
        _, one, two = re.split(r"^The .*:$", text, flags=re.MULTILINE)
        old, new = re.findall(r"with (\w+) renamed to (\w+)", text)[0]
        names: dict[str, object] = {}
        exec(one, names)
        assert f"{old.title()}Table" in names and old != new
        assert one.replace(old, new).replace(old.title(), new.title()).startswith(two)
        assert len(one) > 1.8 * len(two)


def test_records_are_json_and_begin_again() -> None:
    for text in made(prompts.copied_records):
        whole, begun = text.split("[\n")[1:]
        rows = json.loads("[" + whole[: whole.index("]")] + "]")
        assert [row["id"] for row in rows] == [1, 2, 3, 4, 5, 6]
        assert whole.startswith(begun) and json.loads(begun.rstrip(",")) == rows[0]


def test_a_paragraph_begins_again() -> None:
    for text in made(prompts.copied_paragraph):
        _, paragraph, _, begun = text.split("\n\n")
        assert paragraph.startswith(begun) and begun.endswith(".") and len(paragraph) > 8 * len(begun)

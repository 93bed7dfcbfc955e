"""What sampling costs and guessing brings: what is asked, what is counted, and the section about it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from scripts.generation import page, processors, texts, ways
from scripts.generation.goals import judged
from scripts.generation.guesses import Tally, counts
from scripts.measure_generation import PARTS, parser
from scripts.quantisation.results import Results
from scripts.quantisation.speed import Asked
from tgi_server.bench.options import BenchOptions
from tgi_server.bench.workload import Workload
from tgi_server.config import load
from tgi_server.types import SamplingParams

BEFORE = """# TYPE tgi_speculate_guessed_tokens counter
tgi_speculate_guessed_tokens{position="1"} 10
tgi_request_skipped_tokens_sum 4
tgi_request_skipped_tokens_count 20
tgi_queue_size 3
"""
AFTER = """tgi_speculate_guessed_tokens{position="1"} 30
tgi_speculate_guessed_tokens{position="2"} 10
tgi_speculate_accepted_tokens{position="1"} 15
tgi_request_skipped_tokens_sum 19
tgi_request_skipped_tokens_count 40
"""
DOCUMENT = f"before\n{page.BEGIN}\nold\n{page.END}\nafter\n"


def results(**rates: dict[str, float]) -> Results:
    """Of one round at 1, 8 and 32 clients."""
    made = Results()
    for model, each in rates.items():
        run = {name: {clients: [rate] for clients in ("1", "8", "32")} for name, rate in each.items()}
        made.add_speeds(model.replace("_", "-"), run, {"new_tokens": 128, "dtype": "bfloat16"})
    return made


def test_every_way_can_be_asked_for() -> None:
    sent = {name: Workload.of(BenchOptions(**fields)).sampling for name, fields in ways.SAMPLING.items()}
    assert {name for name, fields in sent.items() if fields["temperature"] == 0} == {ways.GREEDY}
    assert len({repr(fields) for fields in sent.values()}) == len(ways.SAMPLING)
    kinds = {name: Workload.of(BenchOptions(**fields)).kind.name for name, fields in ways.WORKLOADS.items()}
    assert all(name.startswith(kind) for name, kind in kinds.items()) and set(kinds.values()) < set(kinds)
    configs = {name: load.compose(options) for name, options in ways.SPECULATION.items()}
    assert [config.speculate for config in configs.values()] == [0, 4, 8, 4, 8]


def test_what_became_of_guesses_is_told_by_measurement() -> None:
    assert counts(BEFORE) == {"guessed 1": 10, "skipped": 4, "steps": 20}
    tally, server = Tally(), Asked("x", 1)
    tally.add(server, 0, BEFORE)
    tally.add(server, 8, AFTER)
    tally.add(Asked("plain", 2), 8, "tgi_queue_size 0\n")
    assert tally.results("x") == {"8": {"tokens a step": 1.75, "guesses a step": 1.5, "right": [0.75, 0.0]}}
    assert tally.results("plain") == {}


def test_goals_are_told_with_what_falls_short() -> None:
    measured = results(
        sampling={"greedy": 100, "temperature 1": 95, "watermark": 90},
        repetitive={ways.PLAIN: 100, "speculate=4 speculation=suffix": 190},
        ordinary_sampled={ways.PLAIN: 100, "speculate=4 speculation=suffix": 99},
    )
    measured.put("texts", "float32", ways.PLAIN, {"texts": 8, "equal": 8})
    measured.put("texts", "float32", "speculate=4 speculation=suffix", {"texts": 8, "equal": 6})
    sampled, one, eight, ordinary, equal = judged(measured)
    assert len(sampled.measured) == 6 and sampled.missed == {f"watermark ({n})": 0.9 for n in (1, 8, 32)}
    assert [len(each.measured) for each in (one, eight, ordinary)] == [1, 1, 3]
    assert not one.missed and not eight.missed and not ordinary.missed
    assert equal.missed == {"speculate=4 speculation=suffix": 0.75}


def test_the_section_has_every_table() -> None:
    named = set(re.findall(r"\{\{([^}]*)\}\}", page.TEMPLATE.read_text()))
    assert named == set(page.TABLES)
    measured = results(
        sampling={"greedy": 100, "min-p 0.05": 95}, repetitive={ways.PLAIN: 50, "speculate=8 speculation=ngram": 100}
    )
    found = {"1": {"tokens a step": 2.5, "guesses a step": 4.0, "right": [0.8, 0.75]}}
    measured.put("guesses", "repetitive", "speculate=8 speculation=ngram", {"clients": found})
    measured.put("texts", "float32", ways.PLAIN, {"texts": 8, "equal": 8})
    measured.put("processors", "cpu", "greedy", {"1": 21.4, "8": 9.6, "32": 9.0})
    text = page.written(measured, DOCUMENT)
    assert text.startswith("before\n") and text.endswith("\nafter\n") and "old" not in text and "{{" not in text
    for row in (
        "| greedy, tokens/s | 100 | 100 | 100 |", "| min-p 0.05 | 0.95 | 0.95 | 0.95 |",
        "| speculate=0, tokens/s | 50 | 50 | 50 |", "| speculate=8 speculation=ngram | 2.00 | 2.00 | 2.00 |",
        "| speculate=8 speculation=ngram | repetitive | 1 | 2.5 | 4.0 | 80%, 75% |", "| speculate=0 | 8 of 8 |",
        "| greedy | 21 | 10 | 9 |",
    ):  # fmt: skip
        assert row in text, row


def test_the_section_can_be_written_before_anything_is_measured() -> None:
    assert "Machine: not measured yet" in page.written(Results(), DOCUMENT)
    with pytest.raises(ValueError, match="written by"):
        page.written(Results(), "no marks")


def test_the_section_that_ships_is_of_the_numbers_that_ship() -> None:
    """Whoever changes the text or the numbers writes the section again: ./scripts/measure-generation --only page."""
    given = parser().parse_args([])
    document = given.page.read_text()
    assert document == page.written(Results.read(given.json), document)


def test_texts_are_compared_one_by_one() -> None:
    expected = {"greedy": ["a", "b"], "sampled": ["c", "d"]}
    assert texts.compared(expected, expected) == {"texts": 4, "equal": 4}
    assert texts.compared({"greedy": ["a", "x"], "sampled": ["d", "d"]}, expected) == {"texts": 4, "equal": 2}
    assert len(set(texts.prompts(6))) == 6 and texts.prompts(6)[:2] == texts.prompts(2)


def test_processors_are_measured_with_what_requests_ask_for(monkeypatch: pytest.MonkeyPatch) -> None:
    params = {name: processors.parameters(fields) for name, fields in ways.SAMPLING.items()}
    assert params["greedy"] == SamplingParams(seed=7)
    assert params["top-k 50"] == SamplingParams(do_sample=True, top_k=50, seed=7)
    assert params["watermark"] == SamplingParams(do_sample=True, watermark=True, seed=7)
    likely = processors.scores(1).softmax(-1).sort(descending=True).values.cumsum(-1)
    assert 0.1 < likely[0, 0] < 0.9 and 0.9 < likely[0, 1000] < 1
    monkeypatch.setattr(processors, "ROWS", (2,))
    found = processors.measured(0.0)
    assert list(found) == list(ways.SAMPLING) and all(list(each) == ["2"] and each["2"] > 0 for each in found.values())


def test_parts_are_chosen_on_the_command_line(tmp_path: Path) -> None:
    assert parser().parse_args(["--only", "texts"]).only == ["texts"]
    assert parser().parse_args([]).only == list(PARTS)

"""The page about quantisation: numbers of several runs, goals, tables. What is measured is not measured here."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from scripts.measure_quantisation import PARTS, parser, rounds
from scripts.quantisation import contenders, goals, page, perplexity
from scripts.quantisation.models import DEMO, LARGE, MODELS
from scripts.quantisation.results import Rates, Results


def rates(**each: list[float]) -> Rates:
    return {name.replace("_", "-"): {"1": values} for name, values in each.items()}


def test_a_ratio_is_the_median_of_the_rounds() -> None:
    results = Results()
    results.add_speeds(DEMO, rates(none=[10, 100, 1], eetq=[20, 110, 5]), {})
    assert results.ratio(DEMO, "eetq", "none", 1) == 2.0
    assert results.ratio(DEMO, "none", "none", 1) == 1.0
    assert results.ratio(DEMO, "eetq", "none", 8) is None
    assert results.ratio(LARGE, "eetq", "none", 1) is None


def test_a_ratio_is_of_one_run_the_latest_that_has_both() -> None:
    results = Results()
    results.add_speeds(DEMO, rates(none=[10], eetq=[20], awq=[50]), {})
    results.add_speeds(DEMO, rates(none=[100], eetq=[100]), {})
    assert results.ratio(DEMO, "eetq", "none", 1) == 1.0
    assert results.ratio(DEMO, "awq", "none", 1) == 5.0
    assert results.ratio(DEMO, "awq", "eetq", 1) == 2.5
    assert len(results.runs(DEMO)) == 2
    results.add_speeds(DEMO, rates(none=[1], eetq=[1], awq=[1], gptq=[1]), {})
    assert len(results.runs(DEMO)) == 1


def test_numbers_survive_the_file(tmp_path: Path) -> None:
    file = tmp_path / "numbers.json"
    results = Results.read(file)
    results.put("weights", DEMO, "none", {"bytes": 7})
    results.add_speeds(DEMO, rates(none=[1.5], eetq=[3.0]), {"rounds": 1})
    results.write(file)
    again = Results.read(file)
    again.put("weights", DEMO, "eetq", {"bytes": 4})
    assert [(again.get("weights", DEMO, name) or {})["bytes"] for name in ("none", "eetq")] == [7, 4]
    assert again.get("weights", LARGE, "none") is None
    assert again.ratio(DEMO, "eetq", "none", 1) == 2.0


def measured() -> Results:
    """Everything of two methods, one of which misses goals."""
    results = Results()
    for model in MODELS:
        run = {
            "none": [100.0], "eetq": [131.0], "bitsandbytes-nf4": [160.0], "llama.cpp Q8_0": [100.0],
            "llama.cpp Q4_0": [320.0],
        }  # fmt: skip
        results.add_speeds(model, {name: dict.fromkeys(("1", "8", "32"), each) for name, each in run.items()}, {})
    for name, value in (("none", 20.0), ("eetq", 20.05), ("bitsandbytes-nf4", 22.0)):
        results.put("perplexity", DEMO, name, {"perplexity": value})
        for model in MODELS:
            results.put("weights", model, name, {"bytes": 10e6 * value})
            results.put("starts", model, name, {"first": 3, "second": 2, "peak": 20e6 * value, "ready": 1e6})
    for kind, value in (("none", 20.0), ("nf4", 21.5)):
        results.put("package", DEMO, kind, {"perplexity": value})
    return results


def test_goals_are_told_with_who_reaches_them() -> None:
    found = {goal.words: (goal.met, goal.missed) for goal in goals.judged(measured())}
    assert found["8 bits, 1 client, demo model: at least 1.3 times bfloat16"] == (["eetq 1.31"], [])
    assert found["4 bits, 1 client, large model: at least 1.7 times bfloat16"] == ([], ["bitsandbytes-nf4 1.60"])
    assert found["32 clients, demo model: 2.5 times llama.cpp Q8_0"] == ([], ["eetq 1.31"])
    assert found["1 client, demo model: 1.0 times llama.cpp Q4_0"] == ([], ["bitsandbytes-nf4 0.50"])
    assert found["perplexity, 8 bits: rises by less than 0.5 %"] == (["eetq +0.25%"], [])
    nf4 = found["perplexity, nf4: within 1 % of what the bitsandbytes package gives"]
    assert nf4 == ([], ["bitsandbytes-nf4 +2.33%"])
    assert found["perplexity, awq and gptq of `job=quantize`: rises by less than 8 %"] == ([], [])


def test_the_page_has_every_table() -> None:
    named = set(re.findall(r"\{\{([^}]*)\}\}", page.TEMPLATE.read_text()))
    assert named == set(page.TABLES)
    text = page.written(measured())
    assert "{{" not in text
    for row in (
        "| eetq | 8 | 1.31 | 1.31 | 1.31 |", "| bitsandbytes-nf4 | llama.cpp Q4_0 | 0.50 | 0.50 | 0.50 |",
        "| eetq | 20.050 | +0.25% |", "| bitsandbytes-nf4 | 22.000 | 21.500 | +2.33% |",
        "| eetq | 200 | 1.00 | 200 | 1.00 |", "| eetq | 3.0 s | 2.0 s | 1.00 | 401 | 1.00 | 1 | 1.00 |",
    ):  # fmt: skip
        assert row in text, row


def test_the_page_can_be_written_before_anything_is_measured() -> None:
    assert "Machine: not measured yet" in page.written(Results())


def test_the_page_that_ships_is_of_the_numbers_that_ship() -> None:
    """Whoever changes the text or the numbers writes the page again: ./scripts/measure-quantisation --only page."""
    given = parser().parse_args([])
    assert given.page.read_text() == page.written(Results.read(given.json))


def test_contenders_are_chosen_by_name_and_the_baseline_always_runs() -> None:
    assert [each.name for each in contenders.chosen(["eetq"])] == ["none", "eetq"]
    assert [each.name for each in contenders.chosen(["llama.cpp Q4_0"])] == ["none", "llama.cpp Q4_0"]
    with pytest.raises(ValueError, match=r"eetk: expected some of .*eetq"):
        contenders.chosen(["eetk"])
    modes = {each.name: each.options for each in contenders.OURS}
    assert modes["awq"] == ["quantize=awq"] and modes["awq+int8"][0] == "quantize=awq" and len(modes["awq+int8"]) == 2


def test_the_large_model_is_measured_in_two_runs_with_the_baseline_in_both() -> None:
    two = contenders.groups([*contenders.OURS, *contenders.THEIRS])
    assert [{each.bits for each in run} for run in two] == [{16, 8}, {16, 4}]
    assert all(run[0].name == "none" for run in two)
    assert {each.name for run in two for each in run} == {each.name for each in [*contenders.OURS, *contenders.THEIRS]}
    assert contenders.groups(contenders.OURS[:1]) == []


def test_rounds_are_for_all_or_for_each_number_of_clients() -> None:
    assert rounds(parser().parse_args(["--rounds", "2"])) == {1: 2, 8: 2, 32: 2}
    assert rounds(parser().parse_args(["--rounds", "3", "2", "1"])) == {1: 3, 8: 2, 32: 1}
    with pytest.raises(ValueError, match="--rounds"):
        rounds(parser().parse_args(["--rounds", "3", "2"]))


def test_parts_are_chosen_on_the_command_line() -> None:
    assert parser().parse_args(["--only", "weights", "page"]).only == ["weights", "page"]
    assert parser().parse_args([]).only == list(PARTS)


def test_perplexity_is_that_of_the_mean_log_probability() -> None:
    assert perplexity.perplexity([-1.0, -3.0]) == pytest.approx(2.718281828**2)


def test_the_text_is_one_that_anyone_has_the_same() -> None:
    text = perplexity.TEXT.read_text()
    assert text.isascii() and "Gutenberg" not in text and 40_000 < len(text) < 60_000

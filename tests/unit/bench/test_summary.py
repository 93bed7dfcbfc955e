"""The arithmetic of results."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from tgi_server.bench.compare import Contender, main, markdown
from tgi_server.bench.completion import Record
from tgi_server.bench.http import Target
from tgi_server.bench.load import Run
from tgi_server.bench.options import BenchOptions
from tgi_server.bench.report import aligned, check_output, table, write
from tgi_server.bench.summary import Percentiles, Summary, summarise
from tgi_server.bench.workload import Workload
from tgi_server.errors import ConfigError, UsageError

GOOD = Record(start=0.0, sent=0.1, arrivals=[1.0, 1.5, 2.0], end=2.0, tokens=3, prompt_tokens=10)
LATE = Record(start=1.0, sent=1.0, arrivals=[2.0, 4.0], end=4.0, tokens=4, prompt_tokens=20)
FAILED = Record(start=0.0, end=1.0, error="status 429: Model is overloaded")


def test_percentiles() -> None:
    assert Percentiles.of([3.0]) == Percentiles(3.0, 3.0, 3.0)
    assert Percentiles.of(list(map(float, range(100, -1, -1)))) == Percentiles(50.0, 95.0, 99.0)
    assert Percentiles.of([0.0, 1.0]).p50 == 0.5
    assert math.isnan(Percentiles.of([]).p99)


def test_a_measurement_until_its_last_answer() -> None:
    summary = summarise(2, [GOOD, LATE, FAILED], None)
    assert (summary.seconds, summary.requests, summary.failed) == (4.0, 3, 1)
    assert (summary.tokens_per_second, summary.requests_per_second) == (7 / 4, 2 / 4)
    assert (summary.prompt_tokens, summary.new_tokens, summary.events) == (15, 3.5, 2.5)
    assert summary.first_token.p50 == 1.0
    assert summary.between_tokens == Percentiles.of([0.5, 0.5, 2.0])
    assert summary.each_token == Percentiles.of([0.5, 2 / 3])
    assert summary.whole.p50 == 2.5
    assert summary.first_error == FAILED.error


def test_what_comes_after_the_duration_is_in_no_rate() -> None:
    summary = summarise(2, [GOOD, LATE], 2.0)
    assert summary.seconds == 2.0
    assert summary.tokens_per_second == (3 + 4 / 2) / 2
    assert summary.requests_per_second == 1 / 2


def test_nothing_but_failures() -> None:
    summary = summarise(1, [FAILED], None)
    assert (summary.tokens_per_second, summary.failed) == (0.0, 1)
    assert "nan" not in table([summary])


def test_columns_are_aligned() -> None:
    assert aligned([["a", "bcd"], ["100", "2"]]) == "  a  bcd\n100    2"
    head, *lines = table([summarise(1, [GOOD], None), summarise(100, [LATE], None)]).splitlines()
    assert [len(line) for line in lines[:2]] == [len(head)] * 2
    assert "1000.0 / 1000.0 / 1000.0" in lines[0]


def test_the_file_has_everything(tmp_path: Path) -> None:
    summary = summarise(1, [GOOD, FAILED], None)
    write(tmp_path / "x.json", {"target": "t"}, [Run(1, [GOOD, FAILED])], [summary])
    written = json.loads((tmp_path / "x.json").read_text())
    assert written["target"] == "t"
    (run,) = written["runs"]
    assert run["records"][0]["arrivals"] == GOOD.arrivals
    assert run["records"][1]["error"] == FAILED.error
    assert run["first_token"]["p99"] == 1.0
    with pytest.raises(ConfigError, match="output="):
        write(tmp_path / "no" / "x.json", {}, [], [])


def test_a_place_for_the_file_is_looked_for_before(tmp_path: Path) -> None:
    for place in (tmp_path, tmp_path / "no" / "x", Path("/proc/x.json")):
        with pytest.raises(UsageError, match=f"^output={place}: "):
            check_output("output", place)
    check_output("output", tmp_path / "x")
    assert not (tmp_path / "x").exists()
    (tmp_path / "old").write_text("kept")
    check_output("output", tmp_path / "old")
    assert (tmp_path / "old").read_text() == "kept"
    check_output("output", Path("/dev/null"))


def one(tokens_per_second: float) -> Summary:
    seconds = 10 / tokens_per_second
    return summarise(8, [Record(0.0, 0.0, [seconds / 2, seconds], seconds, 10, 80)], None)


def test_servers_are_compared_round_by_round() -> None:
    ours = Contender("ours", Target("a", 1), "m", {8: [one(100), one(50), one(400)]})
    other = Contender("other", Target("b", 1), None, {8: [one(50), one(25), one(100)]})
    page = markdown([ours, other], Workload.of(BenchOptions(clients="8")), 3, "./scripts/compare x")
    assert "| 8 | ours | 100.0 |  |" in page
    assert "| 8 | other | 50.0 | 2.00 times |" in page
    assert "* ours: m, 80 tokens in, 10 out" in page
    assert "* Command: `./scripts/compare x`" in page


@pytest.mark.parametrize("argv", [
    ["ours"], ["=http://x"], ["a=http://x", "a=http://y"], ["a=x"], ["a=http://x", "--clients=0"],
    ["a=http://x", "--rounds=0"], ["a=http://127.0.0.1:9"], ["a|b=http://x"], ["a=http://x", "--clients=1,1"],
    ["a=http://x", "--duration=nan"], ["a=http://x", "--duration=inf"], ["a=http://x", "--output=/does/not/exist/x"],
    ["a=http://x", "--json=/"],
])  # fmt: skip
def test_mistakes_in_a_comparison(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) in (1, 2)
    out, err = capsys.readouterr()
    assert (out, err.count("\n"), err[:7]) == ("", 1, "Error: ")

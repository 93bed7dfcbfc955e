"""The page and the Markdown tell what the records say, whatever words are in them."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from statistics import mean, stdev

import pytest

from tests.unit.report.examples import FACTS, failure, plausible, summary, sweep
from tgi_server.report import page, words
from tgi_server.report.findings import Findings
from tgi_server.report.metrics import METRICS
from tgi_server.sweep.objective import Objective
from tgi_server.sweep.record import Described, Sweep

HOSTILE = "<img src=x onerror=alert(1)>|`a`\n# b & \"c\" 'd' ${e} {{ 7*7 }} {% f %} </style></script>\u2028"


class Page(HTMLParser):
    """Its tables as texts, all tags, and the words that are seen."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tables: list[list[list[str]]] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self._open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "wbr"):
            self._open.append(tag)
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self._open:
            self.words += data
        if {"td", "th"} & set(self._open):
            self.tables[-1][-1][-1] += data


def written(directory: Path, made: Sweep, pictures: bool = False) -> tuple[Page, str]:
    page.write(directory, made, pictures=pictures)
    return Page((directory / "report.html").read_text()), (directory / "report.md").read_text()


def cells(line: str) -> list[str]:
    return [cell.strip().strip("*") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def points_of(markdown: str) -> list[list[str]]:
    lines = markdown.partition("## Points\n\n")[2].partition("\n\n")[0].splitlines()
    return [cells(line) for line in lines[2:]]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Page, str, str]:
    directory = tmp_path_factory.mktemp("report")
    told, markdown = written(directory, plausible(), pictures=True)
    return told, markdown, (directory / "report.html").read_text()


def expected(values: Sequence[float], digits: int) -> tuple[str, str]:
    half = 4.303 * stdev(values) / math.sqrt(3)
    return f"{mean(values):.{digits}f}", f"± {half:.{digits}f}"


def test_every_number_of_the_table_is_that_of_the_records(whole: tuple[Page, str, str]) -> None:
    told, markdown, _ = whole
    made = plausible()
    rows = [row for row in told.tables[0][1:] if len(row) > 1]
    assert len(rows) == len(points_of(markdown)) == 12
    for point, row, line in zip(made.points, rows, points_of(markdown), strict=True):
        good = made.good(point.number)
        assert row[0].split()[0] == line[0].split()[0] == str(point.number)
        assert row[1:4] == list(point.settings.values())
        assert row[4] == line[4] == ("3" if good else "0 of 1")
        for metric, in_page, in_line in zip(METRICS, row[5:], line[5:], strict=True):
            numbers = expected([metric.of(one) for one in good], metric.digits) if good else ("-",)
            assert in_page.split(" ", 1) == list(numbers) and in_line == " ".join(numbers)


def test_the_headline_names_the_best_and_the_noise(whole: tuple[Page, str, str]) -> None:
    told, markdown, _ = whole
    line = words.headline(Findings(plausible()))
    assert line == (
        "Best is point 12 (max_waiting_tokens=60, max_batch_prefill_tokens=4096, quantize=eetq; 8 clients): "
        "655.5 ± 10.1 tokens/s. That is 27.0 % more than point 7, the defaults (516.0 ± 25.5 tokens/s), which is more "
        "than the noise (95 % confidence interval of the difference: +21.7 % to +32.3 %)."
    )
    assert line in told.words and line.replace("_", r"\_") in markdown


def test_all_parts_are_there_and_nothing_is_fetched(whole: tuple[Page, str, str]) -> None:
    told, markdown, text = whole
    for part in ("What each setting does", "Throughput against latency", "Simulated against measured", "What failed"):
        assert part in told.words
    assert text.count("<svg") == 3 * 2 + 3 + 4
    for value in FACTS.values():
        assert value in told.words and value in markdown
    assert "RuntimeError: could not allocate 5 GiB" in told.words and "    RuntimeError: could not" in markdown
    assert "first token p95: mean error 8.9 %, 11 of 11 points within 15 %." in told.words
    attributes = {name: value for _, attrs in told.tags for name, value in attrs.items()}
    assert not {"src", "onerror", "srcset", "action"} & attributes.keys()
    assert not {"script", "link", "iframe", "img", "object"} & {tag for tag, _ in told.tags}
    assert "@import" not in text and "url(" not in re.sub(r"url\(#\w+\)", "", text)


def test_the_same_sweep_is_the_same_page(tmp_path: Path) -> None:
    one, other = (page.write(tmp_path / name, plausible(), pictures=False) for name in ("one", "other"))
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in other]


def test_words_from_outside_are_only_words(tmp_path: Path) -> None:
    points = [Described(1, {HOSTILE: HOSTILE}, {"model_id": HOSTILE}, 8), Described(2, {HOSTILE: "5"}, {}, 8)]
    made = sweep([{}, {}], {1: [replace(summary(100.0, failed=1), first_error=HOSTILE)]})
    trials = [*made.trials, replace(failure(2, error=HOSTILE), last_words=[HOSTILE])]
    hostile = replace(made, facts={HOSTILE: HOSTILE}, points=points, trials=trials, doubt=HOSTILE,
                      predictions={1: summary(100.0)}, limits={"ttft_p95": 9.0})  # fmt: skip
    told, markdown = written(tmp_path, hostile, pictures=True)
    assert not {"img", "script"} & {tag for tag, _ in told.tags}
    assert "<img src=x" in told.words and "{{ 7*7 }}" in told.words and "49" not in told.words
    assert not re.search(r"(?<!\\)<img", re.sub(r"(`+) .*? \1|^    .*$", "", markdown, flags=re.MULTILINE))
    assert not re.search(r"^# b", markdown, re.MULTILINE) and "\u2028" not in markdown
    head = markdown.partition("## Points\n\n")[2].splitlines()[0]
    assert {len(line) for line in points_of(markdown)} == {len(cells(head))}


def test_without_matplotlib_it_says_how_to_get_the_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    told, _ = written(tmp_path, plausible(), pictures=True)
    assert "svg" not in {tag for tag, _ in told.tags}
    assert words.NO_PICTURES in told.words and "pip install 'tgi-server[report]'" in words.NO_PICTURES


def test_one_point(tmp_path: Path) -> None:
    told, markdown = written(tmp_path, sweep([{}], {1: [summary(100.0)]}))
    assert "Best is point 1 (the only one; 8 clients): 100.0 tokens/s. Nothing else was measured." in told.words
    assert "±" not in "".join(points_of(markdown)[0]) and "## Effects" not in markdown


def test_nothing_worked(tmp_path: Path) -> None:
    told, markdown = written(tmp_path, sweep([{"a": "1"}, {"a": "2"}], {}), pictures=True)
    assert "Nothing could be measured: every point failed." in told.words
    assert "shard 0 ended with status 1" in told.words and "shard 0 ended with status 1" in markdown
    assert "Pareto" not in markdown.partition("## Definitions")[0]
    assert "There are no points." in written(tmp_path, Sweep(FACTS, [], []))[0].words


def test_numbers_that_do_not_exist(tmp_path: Path) -> None:
    nothing = summary(0.0, math.nan, math.nan, math.nan, failed=60)
    made = sweep([{"a": "1"}, {"a": "2"}], {1: [nothing], 2: [nothing, summary(100.0)]})
    made = replace(made, predictions={1: nothing, 2: summary(90.0)})
    told, markdown = written(tmp_path, made, pictures=True)
    assert "nan" not in markdown.lower().partition("## definitions")[0] and "nan" not in told.words.lower()
    assert "60 of 60 requests failed; the first: HTTP 429" in told.words


@pytest.mark.parametrize(
    ("made", "objective", "line"),
    [
        (sweep([{"a": "1"}, {"a": "2"}], {1: [summary(100.0)], 2: [summary(110.0)]}), Objective.throughput,
         "10.0 % more than point 1, the first of this load (100.0 tokens/s), with too few repeats to tell whether"),
        (sweep([{"a": "1"}, {"a": "2"}], {1: [summary(1.0, whole=2.0)] * 2, 2: [summary(1.0)] * 2}), Objective.latency,
         "whole answer p95 1500 ± 0 ms. That is 50.0 % less than point 1, the first of this load (whole answer p95 "
         "3000 ± 0 ms), which is more than the noise (95 % confidence interval of the difference: -50.0 % to -50.0 %)"),
        (sweep([{"a": "1"}, {"a": "2"}], {1: [summary(100.0), summary(120.0)], 2: [summary(111.0), summary(112.0)]}),
         Objective.throughput, "which is not more than the noise"),
        (sweep([{"clients": "1"}, {"clients": "8"}], {1: [summary(100.0)], 2: [summary(90.0)]}), Objective.throughput,
         "Best is point 1 (clients=1): 100.0 tokens/s. "),
        (sweep([{"a": "1"}, {"a": "2"}], {1: [summary(100.0)], 2: [summary(50.0)]}), Objective.throughput,
         "That is the first point under this load; nothing measured is better."),
        (replace(sweep([{}], {1: [summary(100.0)]}), limits={"ttft_p95": 0.1}), Objective.throughput,
         "No point keeps the limits (first token p95 ≤ 100 ms)."),
        (replace(sweep([{}], {1: [summary(100.0)]}), limits={"itl_p95": 0.1}), Objective.goodput,
         "1.56 requests/s, within between tokens p95 ≤ 100 ms."),
    ],
)  # fmt: skip
def test_headlines(made: Sweep, objective: Objective, line: str) -> None:
    assert line in words.headline(Findings(made, objective))

"""Charts are valid SVG with every point inside the picture and every label readable."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tgi_server.bench.plot import chart, main

SVG = "{http://www.w3.org/2000/svg}"
LETTER = 8.0  # a common width of a letter, in the chart's size


def texts(root: ElementTree.Element) -> list[tuple[str, dict[str, str]]]:
    return [(text.text or "", text.attrib) for text in root.iter(f"{SVG}text")]


def x_labels(root: ElementTree.Element) -> list[tuple[float, str]]:
    """Those on the line of the first one under the axis, from left to right."""
    return sorted((float(at["x"]), text) for text, at in texts(root) if at["y"] == "390.0")


@pytest.mark.parametrize("largest", [0.0, 0.003, 1.0, 5.9, 6.1, 99.0, 44850.0])
def test_points_are_inside_and_the_largest_is_highest(largest: float) -> None:
    lines = {"ours": [(1, largest / 2), (8, largest)], "a<b": [(1, 0.0)]}
    root = ElementTree.fromstring(chart("title", "clients", "ms", lines))
    spots = [(float(dot.attrib["cx"]), float(dot.attrib["cy"])) for dot in root.iter(f"{SVG}circle")]
    assert all(80 <= x <= 580 and 40 <= y <= 370 for x, y in spots)
    assert [x for x, _ in spots] == [80, 580, 80]
    assert min(y for _, y in spots) == spots[1][1] and spots[2][1] == 370
    assert {"1", "8", "ours", "a<b", "title", "clients", "ms"} <= {text for text, _ in texts(root)}


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([1, 2, 4, 8, 16, 32, 64, 128], ["1", "2", "4", "8", "16", "32", "64", "128"]),
        ([2**n for n in range(14)], [str(2**n) for n in range(14)]),
        ([64, 256, 1024, 4000, 4096, 8000, 8192], ["64", "256", "1024", "4096", "8192"]),
        ([32], ["32"]),
    ],
)
def test_labels_of_x_do_not_touch(sizes: list[int], expected: list[str]) -> None:
    root = ElementTree.fromstring(chart("title", "tokens", "ms", {"ours": [(size, 1.0) for size in sizes]}))
    labels = x_labels(root)
    assert [text for _, text in labels] == expected
    assert all(b - a > LETTER * (len(s) + len(t)) / 2 for (a, s), (b, t) in pairwise(labels))


def test_long_names_are_within_the_picture() -> None:
    name = "a server with a rather long name, batch 4"
    root = ElementTree.fromstring(chart("title", "clients", "ms", {"x": [(1, 1.0)], name: [(1, 2.0)]}))
    width = float(root.attrib["viewBox"].split()[2])
    (at,) = (float(at["x"]) for text, at in texts(root) if text == name)
    assert at > 580 and at + LETTER * len(name) < width


def runs(rate: float) -> dict[str, object]:
    return {"runs": [{"clients": clients, "tokens_per_second": rate * clients} for clients in (1, 8, 32)]}


def test_files_are_drawn(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(runs(10.0)))
    (tmp_path / "all.json").write_text(json.dumps({"servers": {"ours": runs(30.0), "theirs": runs(20.0)}}))
    picture = tmp_path / "out.svg"
    assert main([str(picture), f"quantize=eetq={tmp_path}/a.json"]) == 0
    assert picture.read_text().count("<circle") == 3
    assert main([str(picture), f"alone={tmp_path}/a.json", f"{tmp_path}/all.json"]) == 0
    assert picture.read_text().count("<circle") == 9
    names = [text for text, at in texts(ElementTree.parse(picture).getroot()) if at["text-anchor"] == "start"]
    assert names == ["alone", "ours", "theirs"]


def test_mistakes_are_one_line_that_names_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, content in {"a": runs(1.0), "b": {}, "c": {"runs": []}, "d": {"servers": [runs(1.0)]}}.items():
        (tmp_path / name).write_text(json.dumps(content))
    (tmp_path / "text").write_text("no json")
    (tmp_path / "empty").touch()
    (tmp_path / "nothing").write_text(json.dumps({"servers": {}}))
    (tmp_path / "zero").write_text(json.dumps({"runs": [{"clients": 0, "tokens_per_second": 1.0}]}))
    picture = tmp_path / "out.svg"
    words = "x=TMP/b x=TMP/c TMP/d TMP/a x=TMP/text x=TMP/none x=TMP x=TMP/empty TMP/nothing x=TMP/zero =TMP/a"
    for word in words.split():
        assert main([str(picture), word.replace("TMP", str(tmp_path))]) == 1
        error = capsys.readouterr().err
        assert error.startswith("Error: ") and error.count("\n") == 1 and str(tmp_path) in error
    assert main([str(picture), f"x={tmp_path}/a", f"x={tmp_path}/a"]) == 1
    assert "there is a line x already" in capsys.readouterr().err
    assert main([str(picture)]) == 2
    assert capsys.readouterr().err.startswith("Usage: ")
    assert main([str(picture), "x="]) == 1
    assert capsys.readouterr().err == "Error: x=: files are written NAME=BENCH.json or COMPARED.json\n"
    assert main(["--help"]) == 0
    assert capsys.readouterr().out.startswith("Usage: ")
    assert not picture.exists()

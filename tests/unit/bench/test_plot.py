"""Charts are valid SVG with every point inside the picture."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tgi_server.bench.plot import chart, main

SVG = "{http://www.w3.org/2000/svg}"


@pytest.mark.parametrize("largest", [0.0, 0.003, 1.0, 5.9, 6.1, 99.0, 44850.0])
def test_points_are_inside_and_the_largest_is_highest(largest: float) -> None:
    lines = {"ours": [(1, largest / 2), (8, largest)], "a<b": [(1, 0.0)]}
    root = ElementTree.fromstring(chart("title", "clients", lines))
    spots = [(float(dot.attrib["cx"]), float(dot.attrib["cy"])) for dot in root.iter(f"{SVG}circle")]
    assert all(70 <= x <= 570 and 40 <= y <= 370 for x, y in spots)
    assert [x for x, _ in spots] == [70, 570, 70]
    assert min(y for _, y in spots) == spots[1][1] and spots[2][1] == 370
    assert {"1", "8", "ours", "a<b"} <= {text.text for text in root.iter(f"{SVG}text")}


def test_files_of_the_bench_are_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [{"clients": clients, "tokens_per_second": 10.0 * clients} for clients in (1, 8, 32)]
    (tmp_path / "a.json").write_text(json.dumps({"runs": runs}))
    (tmp_path / "b.json").write_text("{}")
    picture = tmp_path / "out.svg"
    assert main([str(picture), f"ours={tmp_path}/a.json"]) == 0
    assert picture.read_text().count("<circle") == 3
    assert main([str(picture), f"ours={tmp_path}/b.json"]) == 1
    assert main([str(picture), f"ours={tmp_path}/none.json"]) == 1
    assert main([str(picture)]) == 2
    assert capsys.readouterr().err.count("\n") == 3

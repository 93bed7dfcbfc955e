"""Tokens/s against clients, drawn from files."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.unit.report.svg import marks, texts
from tgi_server.report.clients import main


def runs(rate: float) -> dict[str, object]:
    return {"runs": [{"clients": clients, "tokens_per_second": rate * clients} for clients in (1, 8, 32)]}


def test_files_are_drawn(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(runs(10.0)))
    (tmp_path / "all.json").write_text(json.dumps({"servers": {"ours": runs(30.0), "theirs": runs(20.0)}}))
    picture = tmp_path / "out.svg"
    assert main([str(picture), f"quantize=eetq={tmp_path}/a.json"]) == 0
    assert list(map(len, marks(picture.read_text()))) == [3]
    assert main([str(picture), f"alone={tmp_path}/a.json", f"{tmp_path}/all.json"]) == 0
    assert list(map(len, marks(picture.read_text()))) == [3, 3, 3]
    assert texts(picture.read_text())[-3:] == ["alone", "ours", "theirs"]


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


def test_without_matplotlib_it_says_what_to_install(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.json").write_text(json.dumps(runs(10.0)))
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main([f"{tmp_path}/out.svg", f"a={tmp_path}/a.json"]) == 1
    assert "pip install 'tgi-server[report]'" in capsys.readouterr().err

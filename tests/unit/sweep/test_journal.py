"""The record: what is written is there after any end, and only its own sweep goes on with it."""

from __future__ import annotations

import math
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.unit.sweep.stages import summary, tasks
from tgi_server.bench.summary import Percentiles
from tgi_server.errors import ConfigError
from tgi_server.sweep import identity
from tgi_server.sweep.journal import Identity, Journal
from tgi_server.sweep.points import points_of
from tgi_server.sweep.record import FILE, Described, Sweep, Trial

NOTHING = Percentiles(math.nan, math.nan, math.nan)
POINTS = [Described(1, {"a": "1"}, {"model": "m", "a": "1"}, 4), Described(2, {"a": "2"}, {"model": "m"}, 4, 2.5)]
GOOD = Trial(1, 1, "2026-01-01T00:00:00+00:00", 2.5, summary(5.0))
BAD = Trial(2, 1, "2026-01-01T00:00:03+00:00", 0.5, None, "shard 0 ended", ("one", "two"))


def own(**marks: str) -> Identity:
    return Identity({"version": "1", **marks}, {"Command": "c", "Time": "t"}, POINTS, {"itl_p95": 0.05})


@contextmanager
def small_files(size: int) -> Iterator[None]:
    """No file can grow beyond: what a full disk is to who writes."""
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    with Journal(tmp_path / "new" / "sweep", own()) as journal:
        journal.add_trial(GOOD)
        journal.add_trial(BAD)
        journal.add_prediction(2, summary(4.5))
        journal.add_doubt("it rains")
        assert journal.sweep == Sweep.read(tmp_path / "new" / "sweep")
    sweep = Sweep.read(tmp_path / "new" / "sweep")
    assert (list(sweep.points), sweep.limits, sweep.facts) == (POINTS, {"itl_p95": 0.05}, {"Command": "c", "Time": "t"})
    assert sweep.trials[0] == GOOD
    assert (sweep.trials[1].error, list(sweep.trials[1].last_words)) == ("shard 0 ended", ["one", "two"])
    assert (sweep.predictions, sweep.doubt) == ({2: summary(4.5)}, "it rains")
    failed = sweep.failed(2)
    assert failed is not None and failed.error == "shard 0 ended" and sweep.failed(1) is None


def test_numbers_that_do_not_exist(tmp_path: Path) -> None:
    odd = summary(prompt_tokens=None, new_tokens=math.nan, events=math.nan, between_tokens=NOTHING)
    with Journal(tmp_path, own()) as journal:
        journal.add_trial(Trial(1, 1, "", 1.0, odd))
        (found,) = journal.sweep.good(1)
    assert found.prompt_tokens is None and math.isnan(found.new_tokens) and math.isnan(found.between_tokens.p95)


@pytest.mark.parametrize("torn", [b'{"kind":"tri', b"\0\0\0\0\n", b'{"kind":"trial","point":1}', b"{}x\n"])
def test_a_line_that_was_not_written_to_its_end_is_as_none(tmp_path: Path, torn: bytes) -> None:
    with Journal(tmp_path, own()) as journal:
        journal.add_trial(GOOD)
    with (tmp_path / FILE).open("ab") as file:
        file.write(torn)
    assert list(Sweep.read(tmp_path).trials) == [GOOD]
    with Journal(tmp_path, own()) as journal:
        journal.add_trial(BAD)
    assert [trial.point for trial in Sweep.read(tmp_path).trials] == [1, 2]


@pytest.mark.parametrize("torn", [b"", b'{"kind":"sweep","li'])
def test_a_record_that_had_hardly_begun_begins_again(tmp_path: Path, torn: bytes) -> None:
    (tmp_path / FILE).write_bytes(torn)
    with Journal(tmp_path, own()) as journal:
        journal.add_trial(GOOD)
    assert list(Sweep.read(tmp_path).trials) == [GOOD]


def test_cut_anywhere_it_can_be_read_and_gone_on_with(tmp_path: Path) -> None:
    with Journal(tmp_path / "whole", own()) as journal:
        journal.add_trial(GOOD)
        journal.add_trial(BAD)
    data = (tmp_path / "whole" / FILE).read_bytes()
    ends = [number for number, byte in enumerate(data, 1) if byte == ord("\n")]
    for length in range(0, len(data), 37):
        directory = tmp_path / str(length)
        directory.mkdir()
        (directory / FILE).write_bytes(data[:length])
        with Journal(directory, own()) as journal:
            assert len(journal.sweep.trials) == max(0, sum(end <= length for end in ends) - 1)


@pytest.mark.parametrize("content", [b"hello\n", b"[1]\nx\n", b"\n", b'{"kind":"trial"}\n', b'{"a":1}\nno\n{"b":2}\n'])
def test_another_file_is_left_alone(tmp_path: Path, content: bytes) -> None:
    (tmp_path / FILE).write_bytes(content)
    with pytest.raises(ConfigError, match=r"record\.jsonl: "):
        Journal(tmp_path, own())
    with pytest.raises(ConfigError):
        Sweep.read(tmp_path)
    assert (tmp_path / FILE).read_bytes() == content


def test_another_sweep_is_refused_with_what_differs(tmp_path: Path) -> None:
    with Journal(tmp_path, own(a="1", b="2", c="3", d="4", e="5")):
        pass
    before = (tmp_path / FILE).read_bytes()
    with pytest.raises(ConfigError, match=r"another sweep \(a: 1 there, 9 here; b: 2 there, none .*; and 2 more\)"):
        Journal(tmp_path, own(a="9"))
    assert (tmp_path / FILE).read_bytes() == before


def test_two_at_a_time_are_refused(tmp_path: Path) -> None:
    with Journal(tmp_path, own()), pytest.raises(ConfigError, match="another process is at this sweep"):
        Journal(tmp_path, own())
    Journal(tmp_path, own()).__exit__()


def test_no_directory(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"record=.*/file: cannot be written \(File exists\)"):
        Journal(tmp_path / "file", own())
    with pytest.raises(ConfigError, match=r"cannot be read \(No such file"):
        Sweep.read(tmp_path)


def test_a_full_disk_leaves_what_was_written(tmp_path: Path) -> None:
    with Journal(tmp_path, own()) as journal:
        journal.add_trial(GOOD)
        size = (tmp_path / FILE).stat().st_size
        with small_files(size + 100), pytest.raises(ConfigError, match=r"cannot be written \(File too large\)"):
            journal.add_trial(BAD)
        assert (tmp_path / FILE).stat().st_size == size
        journal.add_trial(BAD)  # there is room again
        assert [trial.point for trial in journal.sweep.trials] == [1, 2]
    assert [trial.point for trial in Sweep.read(tmp_path).trials] == [1, 2]


@pytest.mark.parametrize("device", ["/dev/null", "/dev/zero"])
def test_what_is_no_file_is_left_alone(tmp_path: Path, device: str) -> None:
    (tmp_path / FILE).symlink_to(device)
    for use in (lambda: Journal(tmp_path, own()), lambda: Sweep.read(tmp_path)):
        with pytest.raises(ConfigError, match=r"record\.jsonl: not a file"):
            use()


def test_killed_while_it_writes(tmp_path: Path) -> None:
    program = (
        "import sys; from tests.unit.sweep.test_journal import *\n"
        "journal = Journal(Path(sys.argv[1]), own())\n"
        "while True: journal.add_trial(GOOD); print(flush=True)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        for _ in range(20):
            process.stdout.readline()
        process.kill()
    with Journal(tmp_path, own()) as journal:
        assert len(journal.sweep.trials) >= 20


def test_a_sweep_is_known_again_by_its_points_and_its_traffic(tmp_path: Path) -> None:
    def place(*words: str, **fields: Any) -> tuple[str, dict[str, str]]:
        found = points_of(tasks("model=smollm2", *words, **fields))
        marks = dict(identity.identify(found, "python ...").marks)
        return str(identity.directory(found, marks)), marks

    varied = "max_waiting_tokens=5,20"
    first, marks = place(varied)
    assert first.startswith("sweeps/SmolLM2-135M-Instruct.Q4_1.gguf-")
    assert place(varied, "port=4000", "json_output=true")[0] == first
    assert place(varied, repeats=3, output="a.json", record="b")[0] == first
    assert first not in (place(varied, new_tokens=9)[0], place(varied, seed=1)[0], place(varied, "max_batch_size=3")[0])
    prompts = tmp_path / "prompts"
    prompts.write_text("secret\n" * 200)
    assert "secret" not in orjson.dumps(place(varied, prompts=str(prompts))[1]).decode()
    assert marks["point 2, max_waiting_tokens"] == "20"

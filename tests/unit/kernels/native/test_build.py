"""What the library tells about the processor's matrix unit."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from tgi_server.kernels.native import build

AMX = ["processor\t: 0", "flags\t\t: fpu amx_bf16 avx512f amx_tile amx_int8"]


@pytest.mark.parametrize(
    ("state", "processor", "text"),
    [
        (0, AMX, "AMX tiles"),
        (1, AMX, "no matrix unit: switched off"),
        (2, AMX, "no matrix unit: the system refuses the use of AMX (arch_prctl)"),
        (3, AMX, "no matrix unit: built without it"),
        (3, ["flags\t\t: fpu avx512f amx_tile"], "no matrix unit: this processor has no AMX"),
        (3, [], "no matrix unit: this processor has no AMX"),
    ],
)
def test_the_matrix_unit_or_why_there_is_none(
    state: int, processor: list[str], text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "library", lambda: SimpleNamespace(tiles=lambda: state))
    monkeypatch.setattr(build, "cpu_info", lambda: processor)
    assert build.matrix_unit() == text
    assert (build.tiles() is None) == (state == 0)


def test_tiles_can_be_switched_off_and_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "FLAGS", [*build.FLAGS, "-DEMULATED_TILES"])
    build.use_tiles(False)
    assert build.tiles() == "switched off"
    build.use_tiles(True)
    assert build.tiles() is None


def test_tiles_that_are_not_there_cannot_be_switched_on() -> None:
    before = build.tiles()
    build.use_tiles(True)
    assert build.tiles() == before


@pytest.mark.parametrize(("mode", "trusted"), [(0o700, True), (0o775, True), (0o777, False), (0o1777, False)])
def test_nothing_is_loaded_from_where_everybody_writes(tmp_path: Path, mode: int, trusted: bool) -> None:
    tmp_path.chmod(mode)
    reason = build._distrust(tmp_path)
    assert reason is None if trusted else reason == f"every user can write to {tmp_path}"
    assert build._distrust(tmp_path / "missing") is None


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiling takes no time, and makes no library."""
    monkeypatch.setattr(build, "SOURCES", [])
    monkeypatch.setattr(build, "_run", lambda command: Path(command[-1]).write_bytes(b"x"))


def someone_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whose files those of this user are not; nor are they root's."""
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    stat = Path.stat

    def owned(path: Path, **options: bool) -> os.stat_result:
        found = stat(path, **options)
        return os.stat_result([*found[:4], found.st_uid or 23456, *found[5:]])

    monkeypatch.setattr(Path, "stat", owned)


@pytest.mark.usefixtures("quick")
def test_nothing_of_another_user_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = build.build("c++", tmp_path, ())
    assert build._built("c++", tmp_path, ()) == made
    made.chmod(0o666)
    assert build._built("c++", tmp_path, ()) is None
    made.chmod(0o600)
    someone_else(monkeypatch)
    assert build._distrust(tmp_path) == f"{tmp_path} belongs to another user"
    assert build._built("c++", tmp_path, ()) is None


@pytest.mark.usefixtures("quick")
def test_where_others_write_the_kernels_are_made_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    shared = tmp_path / "tgi_server" / "native"
    shared.mkdir(parents=True)
    shared.chmod(0o777)
    loaded: list[Path] = []
    monkeypatch.setattr(build, "cache_home", lambda: tmp_path)
    monkeypatch.setattr(ctypes, "CDLL", lambda path: loaded.append(Path(path)))
    monkeypatch.setattr(build, "_checked", lambda library: library)
    build._load.__wrapped__(())
    (path,) = loaded
    assert not path.is_relative_to(tmp_path) and not path.exists() and not any(shared.iterdir())
    assert "the kernels are compiled anew in each process" in caplog.text


@pytest.mark.usefixtures("quick")
def test_a_directory_for_libraries_is_private(tmp_path: Path) -> None:
    library = build.build("c++", tmp_path / "cache" / "new", ())
    for made in (library.parent, library.parent.parent):
        assert made.stat().st_mode & 0o777 == 0o700

"""What the library tells about the processor's matrix unit."""

from __future__ import annotations

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


@pytest.mark.parametrize(("mode", "refused"), [(0o700, False), (0o775, False), (0o777, True), (0o1777, True)])
def test_nothing_is_loaded_from_where_everybody_writes(tmp_path: Path, mode: int, refused: bool) -> None:
    tmp_path.chmod(mode)
    if not refused:
        build._refuse_open(tmp_path)
        return
    with pytest.raises(build.NativeError, match="every user can write"):
        build._refuse_open(tmp_path)


def test_a_directory_for_libraries_is_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "SOURCES", [])
    monkeypatch.setattr(build, "_run", lambda command: Path(command[-1]).write_bytes(b"x"))
    library = build.build("c++", tmp_path / "new", ())
    assert library.parent.stat().st_mode & 0o777 == 0o700

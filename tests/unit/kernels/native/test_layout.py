"""The library and its callers have to agree on what a call looks like."""

from __future__ import annotations

import struct

import pytest

from tgi_server.kernels.native import build, layout
from tgi_server.kernels.native.calls import call


def test_they_agree() -> None:
    assert layout.mismatches(build.library()) == []


@pytest.mark.parametrize(
    ("kernel", "members"),
    [
        ("gate_float32", "out x rows inner activation gated"),
        ("attend_bfloat16", layout.ARGUMENTS["attend_bfloat16"].replace("scale:d", "scale")),
        ("best_float32", "scores places normalisers rows size"),
        ("swirl_float32", "x out"),
    ],
)
def test_other_members_are_a_reason_not_to_run(kernel: str, members: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(layout.ARGUMENTS, kernel, members)
    assert [wrong.split()[0] for wrong in layout.mismatches(build.library())] == [kernel]
    with pytest.raises(build.NativeError, match=f"does not fit its callers: {kernel} takes"):
        build._checked(build.library())


def test_other_constants_are_a_reason_not_to_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(layout.CONSTANTS, "BLOCK", 32)
    assert "'BLOCK': '16'" in layout.mismatches(build.library())[0]


def test_a_call_has_as_many_arguments_as_the_kernel() -> None:
    with pytest.raises(struct.error):
        call("gate_float32", 1, 0, 0)


def test_every_call_has_room_for_its_arguments() -> None:
    assert max(len(layout.letters(kernel)) for kernel in layout.ARGUMENTS) < layout.CALL

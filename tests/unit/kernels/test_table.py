"""Who is taken, and what is said of the others."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import get_args

import pytest
import torch

from tests.models import needs
from tgi_server.kernels import table
from tgi_server.kernels.formats import Dense, Int8
from tgi_server.kernels.native import build
from tgi_server.kernels.row import Operation
from tgi_server.kernels.table import TABLE, UnavailableError, best, every, libraries


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    best.cache_clear()
    yield
    best.cache_clear()


def test_the_compiled_kernels_are_taken_on_a_cpu() -> None:
    for choice in every(replace(needs(), format=Dense)):
        assert (choice.library, choice.recorder) == ("native", "calls"), choice


def test_plain_torch_is_left_where_nothing_else_may_run() -> None:
    for choice in every(replace(needs(plain=True), format=Dense)):
        assert (choice.library, choice.recorder) == ("torch", None), choice
        assert "not native: disable_custom_kernels=true" in str(choice)


def test_a_choice_says_why_others_were_passed_over() -> None:
    line = str(best("attention", needs(dtype=torch.bfloat16)))
    assert line == (
        "attention: native (not flash_attn: the package flash_attn is not installed, it needs a GPU; "
        "not triton: it needs a GPU)"
    )
    assert "it computes in float32 and bfloat16, not float16" in str(best("gate", needs(dtype=torch.float16)))
    assert best("attention", needs(key_width=8)).library == "torch"
    assert "8" in str(best("attention", needs(key_width=8)))


def test_the_matrix_unit_is_told() -> None:
    line = str(best("linear", replace(needs(dtype=torch.bfloat16), format=Dense)))
    assert "AMX" in line
    build.use_tiles(False)
    best.cache_clear()
    try:
        assert "no matrix unit: " in str(best("linear", replace(needs(dtype=torch.bfloat16), format=Dense)))
    finally:
        build.use_tiles(True)


def test_a_wish_for_one_library() -> None:
    assert best("attention", needs(library="torch")).library == "torch"
    assert best("gate", needs(library="torch")).library == "native"
    with pytest.raises(UnavailableError, match="it needs a GPU"):
        best("attention", needs(library="triton"))
    with pytest.raises(UnavailableError, match="there is no such library"):
        best("attention", needs(library="tritn"))


def test_a_format_that_a_library_does_not_multiply() -> None:
    assert best("linear", replace(needs(), format=Int8)).library == "native"

    class Unknown(Int8):
        pass

    assert best("linear", replace(needs(), format=Unknown)).library == "torch"
    assert best("linear", replace(needs(dtype=torch.bfloat16), format=Dense, inputs=33)).library != "native"


def test_without_a_compiler_there_is_a_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(table._LIBRARIES, "native", lambda needs: ["no C++ compiler (g++ or c++) was found"])
    chosen = {choice.operation: choice for choice in every(replace(needs(), format=Dense))}
    assert chosen["linear"].library == "onednn"
    assert "no C++ compiler" in str(chosen["linear"])
    assert {chosen[name].library for name in ("gate", "add_norm", "attention", "sample")} == {"torch"}


def test_every_operation_has_a_last_resort() -> None:
    for operation in get_args(Operation):
        assert libraries(operation)[-1] == "torch"
    assert {row.library for row in TABLE} == set(table._LIBRARIES)

"""What the compiled kernels say about what they cannot do, and that saying it costs nothing."""

from __future__ import annotations

import subprocess
import sys
from typing import Any, get_args

import pytest
import torch

from tgi_server.kernels.formats import Format, Grouped, GroupedByteInputs, Int8, Int8Outlier
from tgi_server.kernels.native.rows import ROWS
from tgi_server.kernels.row import Needs, Operation


def reasons(operation: Operation, dtype: torch.dtype = torch.bfloat16, **needs: Any) -> str:
    (row,) = (row for row in ROWS if row.operation == operation)
    return "; ".join(row.unsupported(Needs(device=torch.device("cpu"), dtype=dtype, **needs)))


def test_rows_load_what_they_name() -> None:
    for row in ROWS:
        assert row.load().__name__ == row.operation
        assert (row.library, row.recorder) == ("native", "calls")


@pytest.mark.parametrize("width", [16, 48, 112, 256])
def test_attention_takes_multiples_of_sixteen(width: int) -> None:
    assert reasons("attention", key_width=width, value_width=272 - width) == ""


@pytest.mark.parametrize("width", [0, 8, 72, 272])
def test_attention_takes_no_other_widths(width: int) -> None:
    assert f"heads of keys are {width} wide" in reasons("attention", key_width=width)
    assert f"heads of values are {width} wide" in reasons("attention", value_width=width)


def test_products_take_every_format() -> None:
    for taken in get_args(Format):
        assert reasons("linear", format=taken) == reasons("experts", format=taken) == ""
    for other in (Grouped, GroupedByteInputs, Int8Outlier):  # whose inputs are filled up to quads
        assert reasons("linear", format=other, inputs=7) == ""

    class Unknown(Int8):
        pass

    assert "not Unknown" in reasons("linear", format=Unknown)
    assert reasons("linear")


def test_pairs_of_inputs_are_whole() -> None:
    assert "odd" in reasons("linear", format=Int8, inputs=7)
    assert "odd" in reasons("head", inputs=7)
    assert reasons("linear", torch.float32, format=Int8, inputs=7) == reasons("head", torch.float32, inputs=7) == ""


def test_importing_the_rows_compiles_and_imports_no_kernels() -> None:
    code = (
        "import sys, tgi_server.kernels.native.rows\n"
        "loaded = {f'tgi_server.kernels.native.{name}' for name in ('build', 'calls', 'linear')} & set(sys.modules)\n"
        "sys.exit(str(loaded) if loaded else 0)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr

"""What the table learns of the Triton kernels."""

from __future__ import annotations

import sys
from importlib import import_module
from inspect import signature
from typing import get_args
from unittest.mock import patch

import pytest
import torch

from tgi_server.kernels import attention, operations, plain
from tgi_server.kernels.formats import Dense, Format, GroupedByteInputs, Int8Outlier
from tgi_server.kernels.row import Kernel, Needs
from tgi_server.kernels.triton.rows import ROWS

CPU = torch.device("cpu")


def row(operation: str) -> Kernel:
    (found,) = [kernel for kernel in ROWS if kernel.operation == operation]
    return found


@pytest.mark.parametrize("operation", [kernel.operation for kernel in ROWS])
def test_arguments_are_those_of_the_declaration(operation: str) -> None:
    module = next(module for module in (operations, attention, plain) if hasattr(module, operation))
    ours, declared = (list(signature(f).parameters) for f in (row(operation).load(), getattr(module, operation)))
    assert ours == [name for name in declared if name != "linear"]  # products of its own, see `kernels.experts`


@pytest.mark.parametrize(
    ("key_width", "value_width", "reason"),
    [
        (256, 128, None),
        (264, 64, "keys of 264 numbers are wider than 256"),
        (64, 36, "the width of values, 36, is not a multiple of 8"),
    ],
)
def test_widths_of_heads(key_width: int, value_width: int, reason: str | None) -> None:
    needs = Needs(device=CPU, dtype=torch.float16, key_width=key_width, value_width=value_width)
    assert row("attention").unsupported(needs) == ([reason] if reason else [])


def test_formats() -> None:
    def refused(operation: str) -> dict[type, list[str]]:
        needs = {format: Needs(device=CPU, dtype=torch.float16, format=format) for format in get_args(Format)}
        reasons = {format: row(operation).unsupported(need) for format, need in needs.items()}
        return {format: texts for format, texts in reasons.items() if texts}

    assert refused("linear") == {
        Dense: ["it multiplies Int8, Int8Outlier, Grouped, GroupedByteInputs, not Dense"],
    }
    assert refused("experts") == {
        Int8Outlier: ["it multiplies Dense, Int8, Grouped, not Int8Outlier"],
        GroupedByteInputs: ["it multiplies Dense, Int8, Grouped, not GroupedByteInputs"],
    }


def test_they_are_known_without_triton() -> None:
    with patch.dict(sys.modules):
        for name in [name for name in sys.modules if name.partition(".")[0] in ("tgi_server", "triton")]:
            del sys.modules[name]
        sys.modules["triton"] = None  # type: ignore[assignment]  # no import of it succeeds
        found = import_module("tgi_server.kernels.table").TABLE
    assert {row.operation for row in ROWS} <= {row.operation for row in found if row.library == "triton"}

"""What the table learns of the Triton kernels."""

from __future__ import annotations

import subprocess
import sys
from inspect import signature

import pytest
import torch

from tgi_server.kernels import attention, operations, plain
from tgi_server.kernels.formats import Dense, Int8, Int8Outlier
from tgi_server.kernels.row import Kernel, Needs
from tgi_server.kernels.triton.rows import ROWS

CPU = torch.device("cpu")


def row(operation: str) -> Kernel:
    (found,) = [kernel for kernel in ROWS if kernel.operation == operation]
    return found


@pytest.mark.parametrize("operation", [kernel.operation for kernel in ROWS])
def test_arguments_are_those_of_the_declaration(operation: str) -> None:
    module = next(module for module in (operations, attention, plain) if hasattr(module, operation))
    names = [list(signature(function).parameters) for function in (row(operation).load(), getattr(module, operation))]
    assert names[0] == names[1]


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


def test_only_plain_8_bit_weights() -> None:
    served = [
        not row("linear").unsupported(Needs(device=CPU, dtype=torch.float16, format=format))
        for format in (Int8, Int8Outlier, Dense)
    ]
    assert served == [True, False, False]


def test_they_are_known_without_triton() -> None:
    code = "import sys; sys.modules['triton'] = None; import tgi_server.kernels.triton.rows, tgi_server.kernels.flash"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)

"""The product with 8-bit weights; what the interpreter multiplies wrongly, bfloat16 in `tl.dot`, only for one row."""

from __future__ import annotations

import pytest
import torch

from tests.triton_checks import check_int8_linear


@pytest.mark.parametrize(
    ("dtype", "rows"),
    [(torch.float32, 1), (torch.bfloat16, 1), (torch.float16, 5), (torch.float32, 16), (torch.float32, 70)],
)
@pytest.mark.parametrize(("inputs", "outputs"), [(64, 40), (300, 7)])
def test_int8_linear(dtype: torch.dtype, rows: int, inputs: int, outputs: int) -> None:
    check_int8_linear(dtype, rows, inputs, outputs)

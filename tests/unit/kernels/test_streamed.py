"""Weights a few outputs at a time."""

from __future__ import annotations

import pytest
import torch

from tgi_server.kernels.formats import Int8
from tgi_server.kernels.streamed import STEP_NUMBERS, Streamed


@pytest.mark.parametrize("inference", [True, False])
def test_parts_by_several_threads_are_the_whole(inference: bool) -> None:
    weight = torch.randn(4096, 2 * STEP_NUMBERS // 4096)
    with torch.inference_mode(inference):

        def read(first: int, last: int) -> Int8:
            steps = (weight[first:last] * 10).round().to(torch.int8)
            return Int8(steps, weight[first:last].amax(1))

        whole = Streamed(4096, weight.shape[1], read).whole()
    assert isinstance(whole, Int8)
    assert torch.equal(whole.scale, weight.amax(1))
    assert whole.steps.is_inference() == inference

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

import tests.triton_device  # noqa: F401  # before a test imports kernels, which are for good what they are imported as


@pytest.fixture(autouse=True)
def on_gpu() -> Iterator[None]:
    """Tensors are made on the GPU; what is compared with computes in full precision."""
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    torch.manual_seed(0)
    with torch.device("cuda"), sdpa_kernel(SDPBackend.MATH):
        yield

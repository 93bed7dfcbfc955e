from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def on_device() -> Iterator[None]:
    """Tensors are made where the kernels run."""
    from tests.triton_device import DEVICE, interpreting

    torch.manual_seed(0)
    with interpreting(), DEVICE:
        yield

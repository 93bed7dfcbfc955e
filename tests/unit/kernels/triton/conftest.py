from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def on_device() -> Iterator[None]:
    """Tensors are made where the kernels run; on a CPU by one thread, as more of them wait longer than they work."""
    from tests.triton_device import DEVICE, interpreting

    torch.manual_seed(0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with interpreting(), DEVICE:
        yield
    torch.set_num_threads(threads)

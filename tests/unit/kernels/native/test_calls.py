"""Recorded calls: run again on new numbers, in memory that nothing else gets."""

from __future__ import annotations

import gc
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tgi_server.kernels.native import calls, operations
from tgi_server.kernels.operations import Activation, Norm, NormKind


def test_a_recording_reads_what_is_there_when_it_runs() -> None:
    gate_up = torch.zeros(3, 8)
    with calls.record() as recording:
        result = operations.gate(gate_up, Activation.SILU)
    assert len(recording) == 1
    for _ in range(2):
        gate_up.copy_(torch.randn(3, 8))
        recording.run()
        assert torch.allclose(result, torch.nn.functional.silu(gate_up[:, :4]) * gate_up[:, 4:], atol=1e-6)


def test_calls_run_in_order() -> None:
    residual, weight = torch.randn(5, 64), torch.rand(64)
    expected, x = residual.clone(), None
    with calls.record() as recording:
        for _ in range(4):
            x = operations.add_norm(residual, x, Norm(NormKind.RMS, 1e-5, weight), torch.float32)
    recording.run()
    norm = None
    for _ in range(4):
        expected += 0 if norm is None else norm
        norm = torch.nn.functional.rms_norm(expected, (64,), weight, 1e-5)
    assert x is not None and norm is not None
    assert torch.allclose(x, norm, atol=1e-5)


def test_memory_is_given_out_again_once_no_view_is_left() -> None:
    first = calls.empty((70, 1000), torch.float32)
    address, view = first.data_ptr(), first.view(1000, 70)[3:]
    del first
    gc.collect()
    assert calls.empty((70, 1000), torch.float32).data_ptr() != address
    del view
    gc.collect()
    again = calls.empty((70000,), torch.float32)
    assert again.data_ptr() == address
    assert again.data_ptr() % 64 == 0


def test_small_results_of_a_recording_stay_in_the_pool() -> None:
    """A recorded call writes to its memory whenever it is run, so that torch must not give it to anything else."""
    with calls.record():
        recorded = calls.empty((7, 100), torch.float32)
    address = recorded.data_ptr()
    del recorded
    gc.collect()
    others = [torch.empty(7, 100) for _ in range(100)]
    assert address not in {other.data_ptr() for other in others}
    with calls.record():
        assert calls.empty((700,), torch.float32).data_ptr() == address
    aligned = [calls.empty((7, n), torch.float32) for n in range(1, 30)]
    assert all(x.data_ptr() % 64 == 0 for x in aligned)


def test_after_an_error_nothing_is_recorded() -> None:
    try:
        with calls.record():
            raise KeyError
    except KeyError:
        pass
    assert torch.equal(operations.gate(torch.zeros(1, 4), Activation.SILU), torch.zeros(1, 2))


COMPUTING: dict[str, Callable[[Tensor], object]] = {
    "aten.mul.Tensor": lambda x: x * 2,
    "aten.add_.Tensor": lambda x: x.add_(x),
    "aten.copy_.default": lambda x: x.copy_(torch.empty_like(x)),
    "aten.clone.default": lambda x: x.t().reshape(-1),
    "aten.cat.default": lambda x: torch.cat((x, x)),
    "aten.zeros.default": lambda x: torch.zeros(3),
    "aten._local_scalar_dense.default": lambda x: x[0, 0].item(),
}
LOOKING: list[Callable[[Tensor], object]] = [
    lambda x: x.view(-1)[3:].unsqueeze(0).transpose(0, 1).squeeze(),
    lambda x: x.reshape(8, 4).detach().as_strided((2, 2), (1, 4)).expand(3, 2, 2),
    lambda x: [part.contiguous() for part in (*x.chunk(2), *torch.split(x, 1), *x.unbind())],
    lambda x: x.to(torch.float32).view(torch.int32).flatten(),
    lambda x: (torch.empty(3), torch.empty_like(x), x.new_empty(4), calls.empty((3, 5), torch.bfloat16)),
]


@pytest.mark.parametrize("inference", [False, True])
@pytest.mark.parametrize("operator", COMPUTING)
def test_a_strict_recording_refuses_what_it_would_not_run_again(operator: str, inference: bool) -> None:
    x = torch.ones(4, 8)
    with torch.inference_mode(inference), pytest.raises(RuntimeError) as error, calls.record(strict=True):
        COMPUTING[operator](x)
    name = operator.split(".")[1]
    assert "is no recorded kernel" in str(error.value)
    assert inference or name in str(error.value)  # in this mode operators arrive whole: reshape, not clone
    assert torch.equal(x, torch.ones(4, 8))
    assert torch.equal(operations.gate(x, Activation.RELU), torch.ones(4, 4))  # neither recorded nor strict any more


@pytest.mark.parametrize("inference", [False, True])
def test_a_strict_recording_allows_views_and_memory(inference: bool) -> None:
    x = torch.ones(4, 8)
    with torch.inference_mode(inference), calls.record(strict=True) as recording:
        for look in LOOKING:
            look(x)
        result = operations.gate(x, Activation.RELU)
    recording.run()
    assert torch.equal(result, torch.ones(4, 4))

"""Recorded calls: run again on new numbers, in memory that nothing else gets."""

from __future__ import annotations

import gc

import torch

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
    first = calls.empty((7, 100), torch.float32)
    address, view = first.data_ptr(), first.view(100, 7)[3:]
    del first
    gc.collect()
    assert calls.empty((7, 100), torch.float32).data_ptr() != address
    del view
    gc.collect()
    again = calls.empty((700,), torch.float32)
    assert again.data_ptr() == address
    assert again.data_ptr() % 64 == 0


def test_after_an_error_nothing_is_recorded() -> None:
    try:
        with calls.record():
            raise KeyError
    except KeyError:
        pass
    assert torch.equal(operations.gate(torch.zeros(1, 4), Activation.SILU), torch.zeros(1, 2))

"""The operations of recurrent layers: any split of texts into steps, in slots used before, equals the whole texts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import conv1d, silu, softplus

from tgi_server.kernels import recurrent as plain
from tgi_server.kernels.attention import AttentionBatch
from tgi_server.kernels.native import recurrent as native

Operations = Any
CHANNELS, STATES, TAPS, SLOTS = 37, 5, 4, 6


@contextmanager
def triton() -> Iterator[Operations]:
    from tests.triton_device import interpreting

    with interpreting():
        from tgi_server.kernels.triton import recurrent

        yield recurrent


LIBRARIES = pytest.mark.parametrize(
    "library", [lambda: nullcontext(plain), lambda: nullcontext(native), triton], ids=["torch", "native", "triton"]
)
DTYPES = pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)], ids=str)
TEXTS = {0: 21, 1: 2, 2: 9}
"""Positions of each."""
SLOT_OF = {0: 4, 1: 1, 2: 5}
STEPS = [{0: 7, 1: 1}, {0: 1, 2: 2}, {2: 1, 0: 12, 1: 1}, {2: 6, 0: 1}]


def batches() -> Iterator[tuple[AttentionBatch, list[tuple[int, int, int]]]]:
    """Each step, and what of which text it computes."""
    done = dict.fromkeys(TEXTS, 0)
    for step in STEPS:
        pieces = [(text, done[text], done[text] + count) for text, count in step.items()]
        lengths, contexts = [stop - start for _, start, stop in pieces], [stop for _, _, stop in pieces]
        starts = [0, *torch.tensor(lengths).cumsum(0).tolist()]
        tables = torch.tensor([[SLOT_OF[text], 9, 9] for text, _, _ in pieces])
        numbers = torch.tensor(starts), torch.tensor(contexts), tables, torch.zeros(0, dtype=torch.int64)
        yield AttentionBatch(starts, lengths, contexts, *numbers), pieces
        done |= {text: stop for text, _, stop in pieces}
    assert done == TEXTS


def run(inputs: list[dict[int, Tensor]], operation: Callable[..., Tensor]) -> dict[int, Tensor]:
    """The results of all texts; `operation` gets what belongs to a step, and the step."""
    results: dict[int, list[Tensor]] = {text: [] for text in TEXTS}
    for batch, pieces in batches():
        step = [torch.cat([each[text][start:stop] for text, start, stop in pieces]) for each in inputs]
        for (text, _, _), part in zip(pieces, torch.split(operation(*step, batch), batch.query_lengths), strict=True):
            results[text].append(part.clone())
    return {text: torch.cat(parts).double() for text, parts in results.items()}


def texts(width: int, dtype: torch.dtype) -> dict[int, Tensor]:
    return {text: torch.randn(length, width).to(dtype) for text, length in TEXTS.items()}


@LIBRARIES
@DTYPES
@pytest.mark.parametrize("biased", [True, False])
def test_convolution(library: Any, dtype: torch.dtype, tolerance: float, biased: bool) -> None:
    torch.manual_seed(0)
    projected, weight = texts(2 * CHANNELS, dtype), torch.randn(TAPS, CHANNELS)
    bias = torch.randn(CHANNELS) if biased else None
    state = torch.full((SLOTS, TAPS - 1, CHANNELS), torch.nan)
    with library() as operations:
        got = run([projected], lambda x, batch: operations.convolve(x, batch, state, weight, bias))
    for text, rows in projected.items():
        x = rows[:, :CHANNELS].double().t().unsqueeze(0)
        wide = conv1d(
            x, weight.double().t().unsqueeze(1), None if bias is None else bias.double(), padding=TAPS - 1,
            groups=CHANNELS,
        )  # fmt: skip
        expected = silu(wide[0, :, : len(rows)].t())
        assert (got[text] - expected).abs().max() < tolerance * expected.abs().max()
        torch.testing.assert_close(state[SLOT_OF[text], -2:], rows[-2:, :CHANNELS].float())
    assert state[[0, 2, 3]].isnan().all(), "slots of others"


@LIBRARIES
@DTYPES
def test_scan(library: Any, dtype: torch.dtype, tolerance: float) -> None:
    torch.manual_seed(0)
    x, time, select, projected = (texts(n, dtype) for n in (CHANNELS, CHANNELS, 2 * STATES, 2 * CHANNELS))
    for steps in time.values():
        steps[:, 0], steps[:, 1] = 30.0, -12.0  # where log(1 + e^x) is x, and where it is e^x
    rates, skip, bias = -torch.rand(STATES, CHANNELS) * 3, torch.randn(CHANNELS), torch.randn(CHANNELS)
    state = torch.full((SLOTS, STATES, CHANNELS), torch.nan)

    def operation(x: Tensor, time: Tensor, select: Tensor, projected: Tensor, batch: AttentionBatch) -> Tensor:
        result: Tensor = operations.scan(x, time, select, projected, batch, state, rates, skip, bias)
        return result

    with library() as operations:
        got = run([x, time, select, projected], operation)
    for text, length in TEXTS.items():
        held, rows = torch.zeros(STATES, CHANNELS, dtype=torch.float64), []
        for t in range(length):
            d = softplus(time[text][t].double() + bias)
            before, after = select[text][t].double().chunk(2)
            held = (d * rates).exp() * held + before.unsqueeze(1) * (d * x[text][t].double())
            y = (held * after.unsqueeze(1)).sum(0) + skip * x[text][t].double()
            rows.append(y * silu(projected[text][t, CHANNELS:].double()))
        expected = torch.stack(rows)
        assert (got[text] - expected).abs().max() < tolerance * expected.abs().max()
        torch.testing.assert_close(state[SLOT_OF[text]].double(), held, rtol=1e-4, atol=1e-5)
    assert state[[0, 2, 3]].isnan().all(), "slots of others"

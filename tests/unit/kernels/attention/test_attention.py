"""Attention on CPUs, compiled and in plain torch, against the definition over whole sequences."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tests.attention import Case, batch_of, by_definition, empty_cache, features_of, step
from tgi_server.kernels.attention import Begin, Features, LayerCache, attention
from tgi_server.kernels.native.attention import attention as native
from tgi_server.types import BLOCK_SIZE

EVERY = pytest.mark.parametrize("begin", [attention, native], ids=["torch", "native"])
DTYPES = pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)], ids=str)
FEATURES = list(features_of(1))


def run(begin: Begin, cache: LayerCache, cases: list[Case], steps: list[list[int]], features: Features) -> None:
    for counts in steps:
        step(begin, cache, cases, counts, features)


def worst(case: Case, features: Features) -> float:
    """The largest difference of a case's results from the definition."""
    return (torch.cat(case.results).double() - case.expected(features)).abs().max().item()


@EVERY
@DTYPES
@pytest.mark.parametrize("name", FEATURES)
def test_any_split_into_steps_equals_whole_sequences(
    begin: Begin, dtype: torch.dtype, tolerance: float, name: str
) -> None:
    torch.manual_seed(0)
    features = features_of(6)[name]
    cache = empty_cache(10, 2, 32, dtype)
    cases = [Case(n, 6, 2, 32, b, dtype) for n, b in ((40, [9, 2, 5]), (17, [1, 7]), (5, [4]))]
    run(begin, cache, cases, [[20, 16, 0], [19, 1, 4], [1, 0, 1]], features)
    for case in cases:
        assert worst(case, features) < tolerance


@EVERY
@DTYPES
@pytest.mark.parametrize("name", ["plain", "all"])
@pytest.mark.parametrize(
    ("width", "value_width"),
    [(16, 16), (32, 48), (48, 32), (80, 80), (96, 16), (112, 112), (128, 128), (192, 128), (256, 256), (64, 240)],
)
def test_widths(
    begin: Begin, dtype: torch.dtype, tolerance: float, name: str, width: int, value_width: int
) -> None:  # fmt: skip
    torch.manual_seed(1)
    features = replace(features_of(5)[name], scale=width**-0.5)
    cache = empty_cache(5, 1, width, dtype, value_width)
    case = Case(37, 5, 1, width, [4, 0, 2], dtype, value_width)
    run(begin, cache, [case], [[18], [1], [17], [1]], features)
    assert worst(case, features) < tolerance


@EVERY
@pytest.mark.parametrize("name", ["plain", "long-window", "all", "sinks"])
@pytest.mark.parametrize(("heads", "kv_heads"), [(9, 3), (17, 1)])
def test_long_contexts(begin: Begin, name: str, heads: int, kv_heads: int) -> None:
    """They are cut into parts, of which the first or last may see nothing."""
    torch.manual_seed(2)
    features = features_of(heads)[name]
    cache = empty_cache(30, kv_heads, 16, torch.float32)
    case = Case(410, heads, kv_heads, 16, torch.randperm(30)[:26].tolist(), torch.float32)
    run(begin, cache, [case], [[280], [1], [6], [100], [2], [21]], features)
    assert worst(case, features) < 1e-5


@EVERY
@DTYPES
@pytest.mark.parametrize(("window", "name"), [(1, "plain"), (5, "all"), (16, "plain"), (33, "all")])
def test_what_lies_before_a_window_may_be_anything(
    begin: Begin, dtype: torch.dtype, tolerance: float, window: int, name: str
) -> None:
    """Blocks given back hold others' numbers, NaN here, and the table may name any block for them."""
    torch.manual_seed(3)
    features = replace(features_of(4)[name], window=window)
    cache = empty_cache(24, 2, 32, dtype)
    cases = [Case(190, 4, 2, 32, list(range(12)), dtype), Case(20, 4, 2, 32, [12, 13], dtype)]
    for counts in ([100, 3], [1, 1], [1, 1], [40, 1], [1, 1], [17, 0], [1, 0]):
        for case in cases:
            unseen = max(0, case.done - window + 1) // BLOCK_SIZE  # for the first of the new positions
            cache.keys[case.blocks[:unseen]] = cache.values[case.blocks[:unseen]] = torch.nan
            case.blocks[:unseen] = torch.randint(14, 24, (unseen,)).tolist()
        step(begin, cache, cases, counts, features)
    for case in cases:
        assert worst(case, features) < tolerance


@EVERY
@DTYPES
@pytest.mark.parametrize("name", FEATURES)
def test_without_causality_all_of_the_context_is_seen(
    begin: Begin, dtype: torch.dtype, tolerance: float, name: str
) -> None:
    torch.manual_seed(4)
    features = replace(features_of(4)[name], causal=False)
    for length, new in ((50, 50), (50, 20), (23, 1), (300, 7)):
        cache = empty_cache(22, 2, 32, dtype)
        case = Case(length, 4, 2, 32, torch.randperm(22)[:19].tolist(), dtype)
        slots = torch.tensor([case.slot(p) for p in range(length)])
        cache.keys[slots // BLOCK_SIZE, :, slots % BLOCK_SIZE] = case.whole[1]
        cache.values[slots // BLOCK_SIZE, :, slots % BLOCK_SIZE] = case.whole[2]
        query, key, value = (x[length - new :] for x in case.whole)
        got = begin(batch_of([(case, range(length - new, length))]))(query, key, value, cache, features)
        expected = by_definition(query, case.whole[1], case.whole[2], features, length)
        assert (got.double() - expected).abs().max() < tolerance


@EVERY
def test_scores_may_be_large(begin: Begin) -> None:
    """A maximum is taken off before the exponential, also of sinks."""
    torch.manual_seed(5)
    for name, features in features_of(2).items():
        large = replace(features, scale=40.0, softcap=features.softcap and 100.0)
        cache = empty_cache(4, 1, 16, torch.float32)
        case = Case(40, 2, 1, 16, [3, 1, 0], torch.float32)
        run(begin, cache, [case], [[30], [1], [9]], large)
        assert worst(case, large) < 2e-4, name


def test_tables_may_be_wider_than_the_longest_context() -> None:
    torch.manual_seed(6)
    case = Case(20, 2, 1, 16, [1, 0], torch.float32)
    cache = empty_cache(3, 1, 16, torch.float32)
    results: list[Tensor] = []
    step(native, cache, [case], [20], Features(0.25))
    for spare in (0, 5):
        batch = batch_of([(case, range(19, 20))], spare)
        query, key, value = (x[19:] for x in case.whole)
        results.append(native(batch)(query, key, value, cache, Features(0.25)))
    assert torch.equal(*results)


def test_numbers_of_heads_are_float32() -> None:
    case, cache = Case(3, 4, 2, 16, [0], torch.bfloat16), empty_cache(1, 2, 16, torch.bfloat16)
    for wrong in (torch.zeros(4).bfloat16(), torch.zeros(3)):
        with pytest.raises(ValueError, match="4 heads"):
            step(native, cache, [case], [3], Features(0.3, sinks=wrong))

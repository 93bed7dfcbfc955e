"""Decode and prefill over the paged cache, in which all that was never written or was given back is NaN."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.attention import features_of
from tests.triton_checks import check_decode, check_steps
from tgi_server.kernels.attention import Features
from tgi_server.kernels.triton import decode

SHAPES = pytest.mark.parametrize("shape", [(2, 2, 32), (6, 2, 64), (3, 1, 80), (2, 1, 256)], ids=str)
EACH = pytest.mark.parametrize("name", ["plain", "window", "long-window", "softcap", "slopes", "sinks", "all"])
PLAIN = Features(0.2)


@SHAPES
def test_decode(shape: tuple[int, int, int]) -> None:
    check_decode(torch.float32, shape, [16, 70], 1, PLAIN)


@EACH
@pytest.mark.parametrize("parts", [1, 3])
def test_decode_with_features(name: str, parts: int) -> None:
    check_decode(torch.float32, (3, 1, 32), [150], parts, features_of(3)[name], spare=2)


@pytest.mark.parametrize(("kv_heads", "contexts", "parts"), [(2, [150, 1], 2), (1, [200, 65], 3), (1, [130], 4)])
def test_decode_in_parts_of_which_some_are_empty(
    kv_heads: int, contexts: list[int], parts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decode, "MOST_PARTS", 4)
    check_decode(torch.float32, (2, kv_heads, 32), contexts, parts, PLAIN, spare=3)


def test_the_part_of_a_context_that_a_window_shows_is_divided() -> None:
    check_decode(torch.float32, (2, 1, 32), [300, 64, 131], 2, Features(0.2, window=130, sinks=torch.randn(2)))


@pytest.mark.parametrize(("width", "value_width"), [(48, 32), (24, 80)])
def test_keys_and_values_of_other_widths(width: int, value_width: int) -> None:
    features = features_of(4)["all"]
    check_decode(torch.float32, (4, 2, width), [40], 2, features, value_width=value_width)
    check_steps(torch.float32, (4, 2, width), [[20], [9]], features, value_width)


def test_decode_in_half_precision() -> None:
    check_decode(torch.float16, (4, 2, 32), [90], 2, features_of(4)["all"])


@SHAPES
def test_prefill_with_and_without_earlier_context(shape: tuple[int, int, int]) -> None:
    check_steps(torch.float32, shape, [[20], [13]], PLAIN)


@EACH
def test_prefill_with_features(name: str) -> None:
    check_steps(torch.float32, (2, 1, 32), [[70, 1], [2, 20]], features_of(2)[name])


@pytest.mark.parametrize("name", ["plain", "window", "slopes", "all"])
def test_queries_that_see_what_follows_them(name: str) -> None:
    check_steps(torch.float32, (2, 1, 32), [[40, 3], [1, 1], [30, 2]], replace(features_of(2)[name], causal=False))


def test_mixed_steps() -> None:
    steps = [[20, 70, 0, 0], [16, 1, 33, 1], [1, 0, 1, 2]]
    check_steps(torch.float32, (2, 1, 32), steps, PLAIN)


def test_prefill_in_half_precision() -> None:
    check_steps(torch.float16, (4, 2, 32), [[20, 1], [5, 9]], features_of(4)["all"])


def test_more_query_heads_than_rows_of_a_tile() -> None:
    check_steps(torch.float32, (71, 1, 32), [[5], [2], [1]], features_of(71)["all"])


@pytest.mark.parametrize(
    ("batch", "kv_heads", "longest", "parts"), [(1, 8, 8000, 33), (1, 8, 100, 1), (128, 8, 8000, 1), (1, 1, 10**6, 64)]
)
def test_parts_keep_132_processors_busy(batch: int, kv_heads: int, longest: int, parts: int) -> None:
    assert decode.choose_parts(batch, kv_heads, longest, 132) == parts

"""Lengths of requests that the memory for caches has room for. Stdlib only: the launcher asks, too."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from tgi_server.config.schema import AUTO, BatchingOptions

USABLE = 0.9
"""Part of the free memory that the caches may take; the rest covers activations and fragmentation."""

UNLIMITED = 131_072
"""`max_total_tokens=auto` of a model whose positions nothing limits: what the longest-reading ones are made for."""

_SHORTEST = 2
"""A prompt of a token and an answer of one."""

_OptionsT = TypeVar("_OptionsT", bound=BatchingOptions)


def is_open(options: BatchingOptions) -> bool:
    """Whether a length is still to be settled: `auto`."""
    return AUTO in (options.max_total_tokens, options.max_input_length)


def longest(options: _OptionsT, max_positions: int | None) -> _OptionsT:
    """The options with numbers for what is `auto`, whatever memory there is.

    Args:
        max_positions: what the model was made for, None where nothing limits it.
    """
    total = options.max_total_tokens
    if total == AUTO:
        limits = (max_positions or UNLIMITED, options.max_batch_total_tokens)
        total = min(limit for limit in limits if limit is not None)
    return _of(options, total)


def shortest(options: _OptionsT) -> _OptionsT:
    """The options with the least that `auto` can come to."""
    if options.max_total_tokens != AUTO:
        return _of(options, options.max_total_tokens)
    return _of(options, max(_SHORTEST, options.max_input_length + 1))


def settled(
    options: _OptionsT, max_positions: int | None, fits: Callable[[BatchingOptions], bool]
) -> _OptionsT:  # fmt: skip
    """The options with the largest numbers for what is `auto` of which a request fits; if none does, the least.

    `fits` is asked about shorter and shorter ones.
    """
    most = longest(options, max_positions)
    if options.max_total_tokens != AUTO:
        return most
    least = shortest(options).max_total_tokens
    total = _largest(least, most.max_total_tokens, lambda total: fits(_of(options, total)))
    return _of(options, least if total is None else total)


def lengths_within(
    options: BatchingOptions, fits: Callable[[BatchingOptions], bool]
) -> tuple[int, int] | None:  # fmt: skip
    """The largest `max_input_length` and `max_total_tokens`, in the proportion that they have, of which a request fits.

    None if none does. `fits` is asked about shorter and shorter ones.
    """
    total = _largest(_SHORTEST, options.max_total_tokens, lambda total: fits(_shorter(options, total)))
    return None if total is None else (_prompt(options, total), total)


def _largest(low: int, high: int, fits: Callable[[int], bool]) -> int | None:
    """The largest number from `low` to `high` that fits, if any does; all below one that fits do."""
    if not fits(low):
        return None
    high += 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def _of(options: _OptionsT, total: int) -> _OptionsT:
    """The options with a number for `max_total_tokens`; prompts that are `auto` leave room for a token."""
    prompt = options.max_input_length
    if prompt == AUTO:
        prompt = total - 1
        if options.prefill_chunk_tokens is None:
            prompt = min(prompt, options.max_batch_prefill_tokens)
    return replace(options, max_total_tokens=total, max_input_length=prompt)


def _shorter(options: BatchingOptions, total: int) -> BatchingOptions:
    return replace(options, max_total_tokens=total, max_input_length=_prompt(options, total))


def _prompt(options: BatchingOptions, total: int) -> int:
    return max(1, min(total - 1, total * options.max_input_length // options.max_total_tokens))

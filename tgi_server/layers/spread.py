"""How ranks share what a model has: vocabulary, features, heads. Stdlib only: the launcher refuses by it.

Where a number does not divide, nothing is padded: later ranks have one more than others, as rank 0 has the choice of
tokens besides.
"""

from __future__ import annotations

from math import lcm

Span = tuple[int, int]

RUN = 16
"""Features of an MLP that stay together: they fill a vector, and whole pairs and bytes of narrower numbers."""


def span(size: int, rank: int, world: int, run: int = 1) -> Span:
    """Start and stop of a rank's part of `size` things, in whole runs of `run` (the last one may be shorter)."""
    runs = -(-size // run)
    start, stop = (min(number * runs // world * run, size) for number in (rank, rank + 1))
    return start, stop


def features(size: int, rank: int, world: int, whole: int = 1) -> Span:
    """The same of an MLP's features, of which a checkpoint keeps `whole` together; in runs that kernels like, where
    there are enough for all ranks."""
    run = lcm(whole, RUN)
    return span(size, rank, world, run if run * world <= size else whole)


def heads(queries: int, keys: int, rank: int, world: int) -> tuple[Span, Span]:
    """A rank's query heads, and the key/value heads that they read; `world` is at most `queries`.

    Whole key/value heads with the query heads that belong to them. Where there are fewer of them than ranks, each is
    on several neighbouring ranks, which share its query heads.
    """
    group = queries // keys
    if keys >= world:
        first, last = span(keys, rank, world)
        return (first * group, last * group), (first, last)
    key = ((rank + 1) * keys - 1) // world
    (first, last), before = span(world, key, keys), key * group
    start, stop = span(group, rank - first, last - first)
    return (before + start, before + stop), (key, key + 1)

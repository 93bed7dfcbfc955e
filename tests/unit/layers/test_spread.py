from __future__ import annotations

from itertools import pairwise

import pytest

from tgi_server.layers.spread import RUN, features, heads, span


@pytest.mark.parametrize(("size", "world", "run"), [(9, 2, 1), (49152, 9, 1), (10, 7, 1), (1536, 7, 16), (100, 3, 8)])
def test_spans_are_even_and_leave_nothing_out(size: int, world: int, run: int) -> None:
    spans = [span(size, rank, world, run) for rank in range(world)]
    assert spans[0][0] == 0 and spans[-1][1] == size
    assert all(before[1] == after[0] for before, after in pairwise(spans))
    assert all(start % run == 0 for start, _ in spans)
    runs = [-(-(stop - start) // run) for start, stop in spans]
    assert max(runs) - min(runs) <= 1 and min(runs) > 0


def test_features_stay_in_runs_where_there_are_enough() -> None:
    assert [features(1536, rank, 5) for rank in range(5)] == [
        (0, 304),
        (304, 608),
        (608, 912),
        (912, 1216),
        (1216, 1536),
    ]
    assert 304 % RUN == 0
    assert [features(20, rank, 3) for rank in range(3)] == [(0, 6), (6, 13), (13, 20)]
    assert [features(1024, rank, 3, 128) for rank in range(3)] == [(0, 256), (256, 640), (640, 1024)]


@pytest.mark.parametrize(("queries", "keys", "world", "expected"), [
    (9, 3, 2, [((0, 3), (0, 1)), ((3, 9), (1, 3))]),
    (9, 3, 3, [((0, 3), (0, 1)), ((3, 6), (1, 2)), ((6, 9), (2, 3))]),
    (9, 3, 4, [((0, 3), (0, 1)), ((3, 6), (1, 2)), ((6, 7), (2, 3)), ((7, 9), (2, 3))]),
    (5, 1, 2, [((0, 2), (0, 1)), ((2, 5), (0, 1))]),
])  # fmt: skip
def test_heads(queries: int, keys: int, world: int, expected: object) -> None:
    assert [heads(queries, keys, rank, world) for rank in range(world)] == expected


def test_every_number_of_ranks_up_to_the_heads_works() -> None:
    for keys, group in ((1, 7), (2, 3), (3, 3), (8, 1), (5, 4)):
        for world in range(1, keys * group + 1):
            parts = [heads(keys * group, keys, rank, world) for rank in range(world)]
            assert [head for (start, stop), _ in parts for head in range(start, stop)] == list(range(keys * group))
            for (start, stop), (first, last) in parts:
                assert (first, last) == (start // group, (stop - 1) // group + 1), "the heads that its queries read"
                assert last - first == 1 or stop - start == (last - first) * group, "each is read by as many"

"""Which replica gets a request."""

from __future__ import annotations

import random

from tgi_server.replicas.affinity import Affinity

IDLE = {"a": 0, "b": 0, "c": 0}


def test_the_longest_beginning_wins() -> None:
    affinity: Affinity[str] = Affinity()
    affinity.add("a", [1, 2])
    affinity.add("b", [1, 2, 3, 4])
    affinity.add("c", [9])
    assert affinity.choose([1, 2, 3, 7], IDLE) == "b"
    assert affinity.choose([9, 9, 9], IDLE) == "c"
    assert affinity.matched([1, 2, 3, 7], "b") == 3
    assert affinity.matched([1, 2, 3, 7], "c") == 0


def test_new_prompts_go_to_the_least_busy_and_of_those_to_who_waited_longest() -> None:
    affinity: Affinity[str] = Affinity()
    affinity.add("a", [1, 2])
    assert affinity.choose([5, 6], {"a": 0, "b": 0}) == "b"
    assert affinity.choose([5, 6], {"a": 0, "b": 1}) == "a"
    assert affinity.choose([], {"a": 3, "b": 2, "c": 4}) == "b"


def test_distinct_prompts_are_spread_evenly() -> None:
    affinity: Affinity[str] = Affinity()
    given = []
    for prompt in range(30):
        keys = [prompt * 100 + place for place in range(10)]
        given.append(affinity.choose(keys, IDLE))
        affinity.add(given[-1], keys)
    assert {name: given.count(name) for name in IDLE} == {"a": 10, "b": 10, "c": 10}


def test_prompts_are_spread_evenly_when_all_memories_are_full_or_nothing_is_known_of_them() -> None:
    affinity: Affinity[str] = Affinity(capacity=20)
    given = []
    for prompt in range(60):
        keys = [prompt * 100 + place for place in range(10)] if prompt < 30 else []
        given.append(affinity.choose(keys, IDLE))
        affinity.add(given[-1], keys)
    for part in (given[:30], given[30:]):
        assert {name: part.count(name) for name in IDLE} == {"a": 10, "b": 10, "c": 10}


def test_the_longer_the_beginning_the_busier_a_replica_may_be() -> None:
    affinity: Affinity[str] = Affinity()
    long, short = list(range(20)), list(range(100, 104))
    affinity.add("a", long)
    affinity.add("a", short)
    assert affinity.choose(long, {"a": 3, "b": 0}) == "a"
    assert affinity.choose(long, {"a": 4, "b": 0}) == "b"
    assert affinity.choose(long[:12], {"a": 2, "b": 0}) == "b"  # as good: the less busy one
    assert affinity.choose(short, {"a": 0, "b": 0}) == "a"
    assert affinity.choose(short, {"a": 1, "b": 0}) == "b"


def test_a_replica_that_is_too_busy_is_passed_over() -> None:
    affinity: Affinity[str] = Affinity(margin=2)
    keys = list(range(60))
    affinity.add("a", keys)
    assert affinity.choose(keys, {"a": 2, "b": 0}) == "a"
    assert affinity.choose(keys, {"a": 3, "b": 0}) == "b"
    affinity.add("b", keys)
    assert affinity.choose(keys, {"a": 2, "b": 1}) == "b"  # both have it: the less busy one
    affinity.add("c", keys[:20])
    assert affinity.choose(keys, {"a": 4, "b": 1, "c": 0}) == "b"


def test_a_replica_that_is_gone_is_forgotten() -> None:
    affinity: Affinity[str] = Affinity()
    affinity.add("a", [1, 2])
    affinity.add("b", [1])
    affinity.forget("a")
    affinity.forget("never seen")
    assert affinity.choose([1, 2], IDLE) == "b"
    assert affinity.matched([1, 2], "a") == 0
    assert list(affinity) == ["b"]


def test_only_those_that_may_be_chosen_are() -> None:
    affinity: Affinity[str] = Affinity()
    affinity.add("a", [1, 2])
    assert affinity.choose([1, 2], {"b": 5}) == "b"


def test_the_least_recently_used_is_forgotten_and_of_a_prompt_the_end_first() -> None:
    affinity: Affinity[str] = Affinity(capacity=5)
    affinity.add("a", [1, 2, 3])
    affinity.add("a", [7, 8, 9])
    assert affinity.matched([7, 8, 9], "a") == 3
    assert affinity.matched([1, 2, 3], "a") == 2
    affinity.add("a", [1])
    affinity.add("a", [10, 11])
    assert affinity.matched([10, 11], "a") == 2
    assert affinity.matched([1], "a") == 1
    assert affinity.matched([7, 8, 9], "a") == 2


def test_it_never_holds_more_than_it_may() -> None:
    random.seed(0)
    affinity: Affinity[int] = Affinity(capacity=40)
    for _ in range(500):
        first = random.randrange(30)
        affinity.add(random.randrange(3), [(first, place) for place in range(random.randrange(1, 12))])
        if random.random() < 0.05:
            affinity.forget(random.randrange(3))
    held = {(replica, key) for replica, seen in affinity._seen.items() for key in seen}
    assert held == {(replica, key) for key, owners in affinity._owners.items() for replica in owners}
    assert all(len(seen) <= 40 for seen in affinity._seen.values())

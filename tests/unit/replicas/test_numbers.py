"""Which replicas count as lost."""

from __future__ import annotations

from tgi_server.replicas.numbers import Numbers


def test_only_a_replica_that_was_wanted_is_lost() -> None:
    numbers = Numbers()
    numbers.see({"STARTING": 2})
    assert (numbers.running, numbers.wanted, numbers.lost) == (0, 2, 0)
    numbers.see({"RUNNING": 2})
    numbers.see({"RUNNING": 1, "STARTING": 1})  # one died
    assert (numbers.running, numbers.wanted, numbers.lost) == (1, 2, 1)
    numbers.see({"RUNNING": 1, "STOPPING": 1, "STARTING": 1})
    numbers.see({"RUNNING": 2})
    assert numbers.lost == 1
    numbers.see({"RUNNING": 1, "STOPPING": 1})  # one is not needed any more
    assert (numbers.running, numbers.wanted, numbers.lost) == (1, 1, 1)
    numbers.see({})
    numbers.see({"STARTING": 1})
    assert numbers.lost == 1


def test_those_run_that_take_requests() -> None:
    numbers = Numbers()
    numbers.see({"RUNNING": 3})
    numbers.see({"RUNNING": 1, "RECOVERING": 1, "PENDING_MIGRATION": 1})
    assert (numbers.running, numbers.wanted, numbers.lost) == (3, 3, 0)

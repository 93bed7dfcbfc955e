"""What is told now and then."""

from __future__ import annotations

from tgi_server.telemetry.seldom import SILENCE, Seldom


def test_once_in_a_while_and_how_often_it_was_not() -> None:
    now = [0.0]
    seldom = Seldom(lambda: now[0])
    assert [seldom.due("a"), seldom.due("a"), seldom.due("b"), seldom.due("a")] == [1, 0, 1, 0]
    now[0] += SILENCE - 0.1
    assert seldom.due("a") == 0
    now[0] += 0.2
    assert (seldom.due("a"), seldom.due("b"), seldom.due("a")) == (4, 1, 0)


def test_names_without_end_are_not_kept() -> None:
    seldom = Seldom(lambda: 0.0)
    assert all(seldom.due(str(number)) == 1 for number in range(1000))
    assert len(seldom._told) < 100 and seldom.due("999") == 0

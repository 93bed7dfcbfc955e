"""When the loop of a shard is believed to hang."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tgi_server.rpc.watch import IDLE_LIMIT, STEP_FACTOR, STEP_LIMIT, STILL_LIMIT, StepWatch


class Loop:
    """A watched loop on a clock of its own, asked once a second."""

    def __init__(self, device_type: str) -> None:
        self.now = self.used = 0.0
        self.watch = StepWatch(device_type, lambda: self.now, lambda: self.used)

    def passes(self, seconds: float, computing: float = 0.0, looks: bool = False) -> str | None:
        """The last word about it after so many seconds, in which so much of a core was used."""
        problem = None
        for _ in range(round(seconds)):
            self.now += 1
            self.used += computing
            if looks:
                self.watch.look()
            problem = self.watch.problem()
        return problem

    @contextmanager
    def step(self) -> Iterator[None]:
        with self.watch.step():
            yield


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_an_idle_loop_has_to_look_for_work(device: str) -> None:
    loop = Loop(device)
    assert loop.passes(1000, looks=True) is None
    assert loop.passes(IDLE_LIMIT) is None
    assert loop.passes(1) == "its loop has not looked for work for 4 s"
    loop.watch.look()
    assert loop.watch.problem() is None


def test_a_step_of_a_cpu_may_take_as_long_as_it_computes() -> None:
    loop = Loop("cpu")
    with loop.step():
        assert loop.passes(3600, computing=0.5) is None
        assert loop.passes(STILL_LIMIT, computing=0.01) is None, "others need the processor, too"
        assert loop.passes(1) == "nothing was computed for 61 s within a step"
        assert loop.passes(1, computing=2.0) is None, "it goes on"
    assert loop.watch.problem() is None


def test_idle_time_before_a_step_does_not_count() -> None:
    loop = Loop("cpu")
    loop.passes(1000, looks=True)
    with loop.step():
        assert loop.passes(STILL_LIMIT) is None
        assert loop.passes(1) is not None


def test_a_step_of_a_gpu_is_measured_by_those_before() -> None:
    loop = Loop("cuda")
    with loop.step():
        assert loop.passes(STEP_LIMIT, computing=1.0) is None
        assert loop.passes(1, computing=1.0) == "a step has not ended for 121 s"
    with loop.step():
        assert loop.passes(STEP_FACTOR * 121, computing=1.0) is None
        assert loop.passes(1, computing=1.0) is not None


def test_many_questions_change_nothing() -> None:
    loop = Loop("cpu")
    with loop.step():
        for _ in range(round(STILL_LIMIT) + 1):
            problem = loop.passes(1)
            for _ in range(50):
                loop.now += 0.0001
                loop.used += 0.0001  # the question itself
                problem = problem or loop.watch.problem()
        assert problem is not None


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_process_that_stood_still_itself_goes_on(device: str) -> None:
    loop = Loop(device)
    loop.passes(5, looks=True)
    loop.now += 1000
    assert loop.watch.problem() is None
    assert loop.passes(IDLE_LIMIT) is None
    assert loop.passes(1) is not None
    with loop.step():
        loop.passes(5)
        loop.now += 1000
        assert loop.watch.problem() is None
        assert loop.passes(max(STILL_LIMIT, STEP_LIMIT) + 1) is not None

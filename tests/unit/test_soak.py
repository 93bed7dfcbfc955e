"""Whether ./scripts/soak would tell."""

from __future__ import annotations

import pytest

from tests.soak import Phase, faults

IDLE = {"tgi_queue_size": 0.0, "descriptors of router": 20.0}


def phase(clients: int, tokens: int = 100, grown: float = 0.0, statuses: dict[str, int] | None = None) -> Phase:
    """Ninety seconds, at whose end a process has grown."""
    made = Phase(clients, 90.0)
    made.statuses.update(statuses or {"200": 90, "429": 9})
    made.tokens = [(second + 0.5, tokens) for second in range(90)]
    made.memory = [(float(second), {"router": round(1e6 * (1 + grown * second / 90))}) for second in range(90)]
    return made


@pytest.mark.parametrize(
    ("many", "after", "log", "told"),
    [
        (phase(512), IDLE, "", None),
        (phase(512, statuses={"200": 90, "500": 1}), IDLE, "", "512 clients got 500 1 times"),
        (phase(512, tokens=90), IDLE, "", "goodput is 90.0 tokens/s, 100.0 with 128 clients"),
        (phase(512, grown=0.1), IDLE, "", "the memory of router grew by 5."),
        (phase(512, grown=0.02), IDLE, "", None),
        (phase(512), IDLE | {"descriptors of router": 22.0}, "", "descriptors of router: 22 are left, 20 were there"),
        (phase(512), IDLE, "INFO x\nTraceback (most recent call last):", "log: Traceback"),
    ],
)
def test_faults_are_told(many: Phase, after: dict[str, float], log: str, told: str | None) -> None:
    found = faults(many, phase(128), IDLE, after, log, 0.95)
    assert len(found) == (told is not None) and (told or "") in "".join(found)

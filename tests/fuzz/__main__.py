"""Requests of ill will against the server. See scripts/fuzz."""

from __future__ import annotations

import argparse
import asyncio
import sys
import time

from tests.fuzz import server, trial


def main() -> int:
    """Print what was found; exit status 1 when anything was."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=20_000, help="cases, with a good request after each hundred")
    parser.add_argument("--seed", type=int, default=0, help="another seed gives other cases")
    parser.add_argument("--demo", action="store_true", help="the demo model instead of shards without one")
    arguments = parser.parse_args()
    begun = time.monotonic()
    with server.demo() if arguments.demo else server.fake() as tried:
        found = asyncio.run(trial.run(tried, arguments.count, arguments.seed, _progress))
    print(
        f"{sum(found.kinds.values())} cases in {time.monotonic() - begun:.0f} s, {found.good} good requests among them"
    )
    print("kinds:", ", ".join(f"{name} {count}" for name, count in found.kinds.most_common()))
    print("statuses:", ", ".join(f"{status}: {count}" for status, count in sorted(found.statuses.items())))
    print("slowest: case {1} with {0:.1f} s".format(*found.slowest))
    print("after a quarter:", _told(found.before), "- at the end:", _told(found.after))
    for wrong in found.faults:
        print("FAULT", wrong)
    return int(bool(found.faults))


def _told(usage: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.0f}" for name, value in usage.items())


def _progress(done: int) -> None:
    if sys.stderr.isatty():
        print(f"\r{done}", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())

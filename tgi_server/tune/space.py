"""Which configurations are candidates: options that clients do not notice, or the combinations that were asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import product
from typing import Any

from tgi_server.config import options, parts
from tgi_server.config.describe import shown
from tgi_server.config.schema import ModelOptions, NetworkOptions, ServerConfig, TelemetryOptions
from tgi_server.errors import UsageError
from tgi_server.jobs.base import Task

Value = int | float | bool | None
Vary = Callable[[Task, Mapping[str, str]], Task]

PAUSING = ("max_batch_prefill_tokens", "waiting_served_ratio", "max_waiting_tokens")
"""What has no effect where prompts are computed in pieces."""
_KEPT = {field.name for group in (ModelOptions, NetworkOptions, TelemetryOptions) for field in fields(group)}
"""What a comparison with the documented defaults leaves as it is: another model would be another task."""


@dataclass(frozen=True)
class Candidate:
    """A configuration that may be best.

    Attributes:
        settings: how it differs from the one that the others are compared with, as it would be on the command line.
        task: the configuration.
    """

    settings: Mapping[str, str]
    task: Task

    @property
    def name(self) -> str:
        """What it is called: its settings."""
        return " ".join(f"{name}={value}" for name, value in self.settings.items()) or "documented defaults"


def values(config: ServerConfig) -> dict[str, tuple[Value, ...]]:
    """The values to try of each option that changes nothing of what clients may ask for and get.

    Lengths and numbers of requests are promises; they stay.
    """
    longest, cache = config.max_input_length, config.max_batch_total_tokens
    prefills = [times * longest for times in (1, 2, 4, 8)]
    sizes = [size for size in (4, 8, 16, 32, 64) if size < config.max_concurrent_requests]
    return {
        "max_waiting_tokens": (20, 1, 5, 60, 200),
        "waiting_served_ratio": (1.2, 0.0, 0.3, 2.5),
        "max_batch_prefill_tokens": tuple(tokens for tokens in prefills if cache is None or tokens <= cache),
        "prefill_chunk_tokens": (None, 256, 128, 512, 64, 1024),
        "max_batch_size": (None, *sizes),
        "prefix_caching": (None, True, False),
    }


def searched(config: ServerConfig, origins: Mapping[str, str]) -> dict[str, tuple[Value, ...]]:
    """Those of `values` that were not set by anybody, each with the default first."""
    free = {name: some for name, some in values(config).items() if name not in origins}
    return {name: tuple(dict.fromkeys([getattr(config, name), *some])) for name, some in free.items()}


def combinations(space: Mapping[str, Sequence[Value]]) -> Iterator[dict[str, Value]]:
    """What to set of a space, the defaults first, then what differs from them in least options.

    Options that have no effect beside another one are not combined with it.
    """
    found = []
    for chosen in product(*space.values()):
        settings = {name: value for name, value in zip(space, chosen, strict=True) if value != space[name][0]}
        if settings.get("prefill_chunk_tokens") is None or not set(PAUSING) & settings.keys():
            found.append(settings)
    return iter(sorted(found, key=len))


def sketched(base: Task, settings: Mapping[str, Value]) -> Candidate:
    """A candidate as far as a simulation needs it: composed by nobody and not checked."""
    changed: dict[str, Any] = dict(settings)
    run = replace(base.run, config=replace(base.run.config, **changed))
    return Candidate({name: shown(value) for name, value in settings.items()}, replace(base, run=run))


def composed(base: Task, sketch: Candidate, vary: Vary) -> Candidate:
    """The candidate as the command line would have made it. Raises UsageError."""
    return replace(sketch, task=vary(base, sketch.settings)) if sketch.settings else replace(sketch, task=base)


def written(tasks: Sequence[Task], vary: Vary) -> list[Candidate]:
    """The combinations of --multirun, the documented defaults of what they vary first.

    Raises:
        UsageError: they vary the load, or the defaults cannot be had.
    """
    runs = [options.values(task.run.config) for task in tasks]
    names = dict.fromkeys(name for run in runs for name in run if any(run.get(name) != each.get(name) for each in runs))
    if of_the_job := [options.short(name) for name in names if name.partition(".")[0] == "job"]:
        raise UsageError(f"{', '.join(of_the_job)}: job=tune compares configurations under one load, give one value")
    defaults = options.values(ServerConfig())
    base = {name: runs[0].get(name) if name in _KEPT else defaults.get(name) for name in names}
    found = [Candidate(_settings(run, base), task) for run, task in zip(runs, tasks, strict=True)]
    if all(candidate.settings for candidate in found):
        wanted = {name: value for name, value in base.items() if "." not in name or value is not None}
        found.append(Candidate({}, vary(tasks[0], {name: _text(name, value) for name, value in wanted.items()})))
    return sorted(found, key=lambda candidate: len(candidate.settings))


def _settings(run: Mapping[str, Any], base: Mapping[str, Any]) -> dict[str, str]:
    different = (name for name in base if name in run and run[name] != base[name])
    return {name: _text(name, run[name]) for name in different}


def _text(name: str, value: Any) -> str:
    """As it would be on the command line; a part by the name of its choice."""
    choices = parts.choices(name) if name in parts.PARTS else {}
    return next((choice for choice, path in choices.items() if path == value), shown(value))

"""Which rotary positions a model has, as config.json and the options say. Stdlib only."""

from __future__ import annotations

import importlib
import math
import pkgutil
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from tgi_server.config.schema import RopeOptions
from tgi_server.rope.base import Entry, Rope

_THETA = 10000.0


@cache
def kinds() -> Mapping[str, type[Rope]]:
    """All kinds by the names that config.json may give them: the classes of this package that have `names`."""
    found: dict[str, type[Rope]] = {}
    for module in pkgutil.iter_modules([str(Path(__file__).parent)]):
        if module.name in ("base", "kinds", "table"):
            continue
        for value in vars(importlib.import_module(f"tgi_server.rope.{module.name}")).values():
            found |= dict.fromkeys(getattr(value, "names", ()), value)
    return found


def overruled(options: RopeOptions | None) -> dict[str, Any] | None:
    """What the options put in the place of the model's own scaling; None when they say nothing (contract 1.4)."""
    if options is None or (options.rope_scaling is None and options.rope_factor is None):
        return None
    kind = "linear" if options.rope_scaling is None else options.rope_scaling.value
    return {"rope_type": kind, "factor": 1.0 if options.rope_factor is None else options.rope_factor}


def read(
    config: Mapping[str, Any], head_width: int, options: RopeOptions | None = None, layer_type: str | None = None,
    theta: float | None = None, partial: float | None = None,
) -> Rope:  # fmt: skip
    """The rotary positions of `config`: `rope_parameters` (transformers 5), or `rope_scaling` and `rope_theta` before.

    Args:
        config: config.json.
        head_width: of queries and keys.
        options: put their scaling in the place of the model's; the base stays.
        layer_type: key of `rope_parameters` where these differ between layers.
        theta, partial: the base and the part of a head that turns, where nothing says others.

    Raises:
        ValueError: a kind that is not known, or numbers that cannot be.
        KeyError: a missing number.
    """
    written = _written(config, layer_type)
    base = written.get("rope_theta") or config.get("rope_theta") or theta or _THETA
    part = written.get("partial_rotary_factor") or config.get("partial_rotary_factor") or partial or 1.0
    numbers = overruled(options) or written
    name = numbers.get("rope_type") or numbers.get("type") or "default"
    if not isinstance(name, str) or name not in kinds():
        raise ValueError(f"rope type {name!r} (served: {', '.join(sorted(kinds()))})")
    for what, value in (("rope_theta", base), ("partial_rotary_factor", part)):
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
            raise ValueError(f"{what}={value!r} (a number above 0 is expected)")
    entry = Entry(numbers, head_width, float(base), float(part), _positions(config))
    if not 2 <= entry.turned <= head_width or entry.turned % 2:
        raise ValueError(f"{entry.turned} of {head_width} numbers of a head would turn (an even part is expected)")
    return kinds()[name].read(entry)


def _written(config: Mapping[str, Any], layer_type: str | None) -> dict[str, Any]:
    entry = table(config, "rope_parameters") or table(config, "rope_scaling")
    if layer_type is not None and layer_type in entry:
        entry = table(entry, layer_type)
    original = config.get("original_max_position_embeddings")
    return {**entry, **({"original_max_position_embeddings": original} if original else {})}


def table(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """An entry that holds entries itself; empty where it is missing or null. Raises ValueError for any other."""
    value = config.get(name)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise ValueError(f"{name}={value!r:.60} (an object is expected)")
    return value


def _positions(config: Mapping[str, Any]) -> int | None:
    value = config.get("max_position_embeddings")
    return None if value is None else int(value)

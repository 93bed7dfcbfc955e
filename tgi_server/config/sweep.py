"""`--multirun`: overrides that hold several values, and their combinations."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from tgi_server.config.describe import shown
from tgi_server.errors import UsageError


def is_sweep(token: str) -> bool:
    """Whether the override holds several values: `a=1,2`, `a=range(1,4)`, `a=glob(*)`."""
    try:
        return bool(OverridesParser.create().parse_override(token).is_sweep_override())
    except HydraException:  # a text that Hydra cannot read is one value
        return False


def combinations(overrides: Sequence[str], loader: ConfigLoader) -> list[list[str]]:
    """The overrides of every single run, the last sweep changing fastest.

    Args:
        overrides: of two with the same key the later one counts.
        loader: knows the choices that a glob matches.

    Raises:
        UsageError: a sweep has no values to count (`interval`).
    """
    values: dict[str, list[str]] = {}
    for override in OverridesParser.create(loader).parse_overrides(list(overrides)):
        key = override.get_key_element()
        values.pop(key, None)
        values[key] = _values(key, override)
    return [list(combination) for combination in itertools.product(*values.values())]


def _values(key: str, override: Override) -> list[str]:
    if not override.is_sweep_override():
        return [str(override.input_line)]
    if not override.is_discrete_sweep():
        raise UsageError(f"{shown(override.input_line)}: --multirun counts values; a,b or range(1,4) works")
    values = [f"{key}={value}" for value in override.sweep_string_iterator()]
    if not values:
        raise UsageError(f"{shown(override.input_line)}: there is no such choice")
    return values

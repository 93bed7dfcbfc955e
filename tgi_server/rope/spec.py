"""How a model turns its positions, as config.json says. Stdlib only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# what each kind of scaling needs beside theta
_NEEDS = {
    "default": (),
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
}


@dataclass(frozen=True, slots=True)
class RopeSpec:
    """Rotary position embedding (RoFormer, arXiv:2104.09864): base `theta`, kind of scaling and its numbers."""

    theta: float
    scaling: str
    parameters: Mapping[str, float]


def read_rope(config: Mapping[str, Any], linear_factor: float | None = None) -> RopeSpec:
    """Read `rope_parameters` (transformers 5) or `rope_scaling` with `rope_theta` (before).

    `linear_factor` takes the place of whatever scaling is written there; the base stays.

    Raises ValueError for a kind that is not served, KeyError for a missing number.
    """
    entry = config.get("rope_parameters") or config.get("rope_scaling") or {}
    theta = float(entry.get("rope_theta") or config.get("rope_theta") or 10000.0)
    if linear_factor is not None:
        return RopeSpec(theta, "linear", {"factor": linear_factor})
    scaling = entry.get("rope_type") or entry.get("type") or "default"
    if scaling not in _NEEDS:
        raise ValueError(f"rope type {scaling!r} (served: {', '.join(_NEEDS)})")
    return RopeSpec(theta, scaling, {name: float(entry[name]) for name in _NEEDS[scaling]})

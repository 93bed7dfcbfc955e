"""Rotary positions in GGUF, as `rope_parameters` of config.json."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from gguf import Keys
from gguf.quants import dequantize
from numpy.typing import NDArray

from tgi_server.errors import ModelError
from tgi_server.launcher.gguf.reader import GgufFile

Parameters = dict[str, Any]
_FACTORS = "rope_freqs.weight"
_LONG, _SHORT = "rope_factors_long.weight", "rope_factors_short.weight"
READ = frozenset({_FACTORS, _LONG, _SHORT})
"""Tensors that are read here, and are no weights."""
_HIGH, _CONTEXT = 4.0, 8192
"""The numbers of Llama 3.1 to 3.3."""
_LEGACY_FACTOR = "{arch}.rope.scale_linear"


def entries(parameters: Parameters) -> dict[str, Any]:
    """Entries of config.json, for readers before and after `rope_parameters` came."""
    return {"rope_parameters": parameters, "rope_theta": parameters["rope_theta"]}


def parameters(file: GgufFile, width: int, theta: float = 10000.0) -> Parameters:
    """The positions of heads of so many values; `theta` where the file says none.

    Raises:
        ModelError: a kind of scaling that is not served, or numbers that cannot be.
    """
    base = file.decimal(Keys.Rope.FREQ_BASE, theta)
    turned = file.whole(Keys.Rope.DIMENSION_COUNT, width)
    if width < 2 or turned % 2 or turned > width or base <= 0:
        raise ModelError(f"{file.path}: rotary embedding of {turned} of {width} values a head is not supported")
    part = {} if turned == width else {"partial_rotary_factor": turned / width}
    for key, kind in ((Keys.Rope.SCALING_FINETUNED, bool), (Keys.Rope.SCALING_ORIG_CTX_LEN, int)):
        file.optional(key, kind)  # says nothing where no scaling goes with it
    return {**_scaling(file, base, turned), "rope_theta": base, **part}


def _scaling(file: GgufFile, base: float, turned: int) -> Parameters:
    kind = file.optional(Keys.Rope.SCALING_TYPE, str) or "none"
    if _FACTORS in file.tensors:
        return _llama3(file, base, turned)
    if _LONG in file.tensors or _SHORT in file.tensors:
        return _longrope(file, turned)
    if kind == "yarn":
        return _yarn(file)
    factor = file.decimal(Keys.Rope.SCALING_FACTOR, file.decimal(_LEGACY_FACTOR, 0.0))
    if kind == "linear" or (kind == "none" and factor not in (0.0, 1.0)):
        return {"rope_type": "linear", "factor": factor or 1.0}
    if kind != "none":
        raise ModelError(f"{file.path}: rope scaling {kind!r} is not supported in GGUF files")
    return {"rope_type": "default"}


def _yarn(file: GgufFile) -> Parameters:
    factor = file.decimal(Keys.Rope.SCALING_FACTOR)
    if factor <= 0:
        raise ModelError(f"{file.path}: the metadata {file.key(Keys.Rope.SCALING_FACTOR)} is {factor}")
    found: Parameters = {
        "rope_type": "yarn",
        "factor": factor,
        "original_max_position_embeddings": file.whole(Keys.Rope.SCALING_ORIG_CTX_LEN),
        "beta_fast": file.decimal(Keys.Rope.SCALING_YARN_BETA_FAST, 32.0),
        "beta_slow": file.decimal(Keys.Rope.SCALING_YARN_BETA_SLOW, 1.0),
    }
    scale = file.decimal(Keys.Rope.SCALING_ATTN_FACTOR, 1.0) * file.decimal(Keys.Rope.SCALING_YARN_ATTN_FACTOR, 1.0)
    if scale != 1.0:  # llama.cpp multiplies it with what transformers calls the attention factor
        found["attention_factor"] = scale * (0.1 * math.log(factor) + 1.0)
    if file.decimal(Keys.Rope.SCALING_YARN_EXT_FACTOR, 1.0) != 1.0:
        raise ModelError(f"{file.path}: the metadata {file.key(Keys.Rope.SCALING_YARN_EXT_FACTOR)} has to be 1")
    return found


def _longrope(file: GgufFile, turned: int) -> Parameters:
    original = file.whole(Keys.Rope.SCALING_ORIG_CTX_LEN)
    factors = {"long_factor": _LONG, "short_factor": _SHORT}
    lists = {name: _values(file, tensor, turned).tolist() for name, tensor in factors.items()}
    scale = file.decimal(Keys.Rope.SCALING_ATTN_FACTOR, 0.0)
    file.decimal(Keys.Rope.SCALING_FACTOR, 1.0)  # tells the same as the lengths do
    attention = {"attention_factor": scale} if scale else {}
    return {"rope_type": "longrope", **lists, **attention, "original_max_position_embeddings": original}


def _values(file: GgufFile, name: str, turned: int) -> NDArray[np.float64]:
    tensor = file.tensors.get(name)
    if tensor is None or tensor.shape != (turned // 2,):
        raise ModelError(f"{file.path}: the tensor {name} is missing, or has not {turned // 2} values")
    values: NDArray[np.float64] = dequantize(tensor.data, tensor.kind).reshape(-1).astype(np.float64)
    if not (np.isfinite(values) & (values > 0)).all():
        raise ModelError(f"{file.path}: {name} holds values that are not finite numbers above 0")
    return values


def _llama3(file: GgufFile, base: float, turned: int) -> Parameters:
    """The numbers that Llama 3.1's scaling was computed from, of its outcome: a divisor for each wavelength.

    Divisors are 1 for short waves, `factor` for long ones; between these 1 / divisor is a line over the turns that a
    wave makes in the original context. Where that context is known only up to a scale, so are the two limits.
    """
    divisors = _values(file, _FACTORS, turned)
    factor = float(divisors.max())
    if factor <= 1.0:
        return {"rope_type": "default"}
    turns = base ** -(np.arange(0, turned, 2) / turned) / (2 * math.pi)
    keep = (1 / divisors - 1 / factor) / (1 - 1 / factor)
    between = (keep > 1e-3) & (keep < 1 - 1e-3)
    high, original = _line(turns[between], keep[between])
    if original is None:
        original = file.optional(Keys.Rope.SCALING_ORIG_CTX_LEN, int) or _CONTEXT
    again = np.clip((turns * original - 1.0) / (high - 1.0), 0.0, 1.0)
    if not np.allclose(again, keep, atol=2e-3):
        raise ModelError(f"{file.path}: {_FACTORS} is not the scaling of Llama 3, which is the only one served")
    return {
        "rope_type": "llama3",
        "factor": float(f"{factor:.6g}"),
        "low_freq_factor": 1.0,
        "high_freq_factor": high,
        "original_max_position_embeddings": original,
    }


def _line(turns: NDArray[np.float64], keep: NDArray[np.float64]) -> tuple[float, int | None]:
    """The upper limit and the original context for a lower limit of 1. Of too few points: the limits of all models."""
    if len(turns) > 1:
        slope, below = np.polyfit(turns, keep, 1)
        return float(f"{1.0 + 1.0 / -below:.4g}"), round(slope / -below)
    return _HIGH, round(((_HIGH - 1.0) * keep[0] + 1.0) / turns[0]) if len(turns) else None

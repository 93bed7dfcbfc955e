"""Rotary position embedding (RoFormer, arXiv:2104.09864), half-split layout as in the Llama checkpoints."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tgi_server.rope.spec import RopeSpec


def inverse_frequencies(rope: RopeSpec, head_dim: int) -> Tensor:
    """Angle per position of each of the `head_dim / 2` pairs, float32 `[head_dim / 2]`."""
    exponent = torch.arange(0, head_dim, 2, dtype=torch.int64).float() / head_dim
    frequencies = 1.0 / (rope.theta**exponent)
    if rope.scaling == "linear":
        return frequencies / rope.parameters["factor"]
    if rope.scaling == "llama3":
        return _llama3(frequencies, rope)
    return frequencies


def _llama3(frequencies: Tensor, rope: RopeSpec) -> Tensor:
    """Llama 3.1: long wavelengths are divided by `factor`, short ones kept, those between blended linearly."""
    p = rope.parameters
    turns = p["original_max_position_embeddings"] * frequencies / (2 * math.pi)
    keep = (turns - p["low_freq_factor"]) / (p["high_freq_factor"] - p["low_freq_factor"])
    keep = keep.clamp(0.0, 1.0)
    return frequencies / p["factor"] * (1 - keep) + frequencies * keep


class RotaryTable:
    """Cosines and sines of every position, float32 `[max_positions, head_dim / 2]` each."""

    def __init__(self, rope: RopeSpec, head_dim: int, max_positions: int, device: torch.device) -> None:
        angles = torch.outer(torch.arange(max_positions).float(), inverse_frequencies(rope, head_dim))
        self.cos = angles.cos().to(device)
        self.sin = angles.sin().to(device)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the heads `x [tokens, heads, head_dim]` by `cos`, `sin` `[tokens, 1, head_dim / 2]`, computed in float32."""
    left, right = x.float().chunk(2, dim=-1)
    return torch.cat((left * cos - right * sin, right * cos + left * sin), dim=-1).to(x.dtype)

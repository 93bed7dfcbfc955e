"""Checkpoints of Medusa heads: of random numbers, for tests of how they are found and computed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

CONFIG = {"medusa_num_heads": 2, "medusa_num_layers": 1, "transformers_version": "4.31.0"}
"""As in the wild, where the number of heads is wrong."""


def random_heads(
    width: int, vocabulary: int, heads: int = 3, layers: int = 1, shared: bool = False
) -> dict[str, Tensor]:
    """The tensors of heads; without projections where they share the model's head."""
    torch.manual_seed(2)
    made = {}
    for head in range(heads):
        for layer in range(layers):
            made[f"{head}.{layer}.linear.weight"] = torch.randn(width, width) / width**0.5
            made[f"{head}.{layer}.linear.bias"] = torch.randn(width)
        if not shared:
            made[f"{head}.{layers}.weight"] = torch.randn(vocabulary, width)
    return made


def write_heads(directory: Path, tensors: dict[str, Tensor], base: str, safe: bool = True, **config: Any) -> Path:
    """A checkpoint that holds nothing but heads, for a model that is called `base`."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps({"base_model_name_or_path": base, **CONFIG, **config}))
    if safe:
        save_file(tensors, directory / "medusa_lm_head.safetensors")
    else:
        torch.save(tensors, directory / "medusa_lm_head.pt")
    return directory

"""What bitsandbytes itself made of some matrices (tests/data), and its layout, for checkpoints of other matrices."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from tgi_server.kernels.formats import Grouped, unpacked
from tgi_server.quantize.bitsandbytes_fp4 import BitsandbytesFp4
from tgi_server.quantize.bitsandbytes_nf4 import BitsandbytesNf4
from tgi_server.quantize.blockwise.method import Blockwise
from tgi_server.quantize.settings import Settings

METHODS: dict[str, type[Blockwise]] = {"nf4": BitsandbytesNf4, "fp4": BitsandbytesFp4}
"""Each with a class method `reads`."""


@cache
def all_made() -> dict[str, Tensor]:
    """The file that tests/data/make_bitsandbytes.py writes."""
    tensors: dict[str, Tensor] = load_file(Path(__file__).parent / "data" / "bitsandbytes.safetensors")
    return tensors


def made(name: str) -> dict[str, Tensor]:
    """The tensors whose names begin with `name` and a dot, without it."""
    return {key[len(name) + 1 :]: tensor for key, tensor in all_made().items() if key.startswith(f"{name}.")}


def state_dict(name: str) -> dict[str, Tensor]:
    """Those of them that the package saves."""
    return {key: tensor for key, tensor in made(name).items() if key != "made"}


def settings_4bit(kind: str) -> Settings:
    """As transformers writes them."""
    return Settings("config.json", {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": kind})


SETTINGS_8BIT = Settings("config.json", {"quant_method": "bitsandbytes", "load_in_8bit": True})


def saved(weight: Tensor, kind: str) -> dict[str, Tensor]:
    """A state dict of a matrix whose rows are whole blocks of 64, its statistics as they are."""
    whole = METHODS[kind](compress_statistics=False).reader(None).read({"weight": weight})
    assert isinstance(whole, Grouped) and whole.book is not None
    numbers = unpacked(whole.codes).view(-1, 2)
    state = {"quant_type": kind, "blocksize": 64, "dtype": "float32", "shape": list(weight.shape)}
    return {
        "weight": (numbers[:, 0] << 4 | numbers[:, 1]).unsqueeze(1), "weight.absmax": whole.scale.flatten(),
        "weight.quant_map": whole.book,
        f"weight.quant_state.bitsandbytes__{kind}": torch.tensor([*json.dumps(state).encode()], dtype=torch.uint8),
    }  # fmt: skip

"""A checkpoint of 4 bits with random codes in the place of a random Llama's layers, to measure speed and memory with.

    python scripts/quantisation/random_codes.py SOURCE TARGET awq|gptq

The layouts are AutoAWQ's, with offsets, and AutoGPTQ's, symmetric and with act-order, as `job=quantize` writes them.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

BITS, GROUP = 4, 64
PER_WORD = 32 // BITS
EIGHTS = 0x77777777
"""Codes of GPTQ that stand for a zero at 8: it stores one less."""
SPREAD = 4.6
"""Standard deviation of random codes."""
SETTINGS = {
    "awq": {"quant_method": "awq", "bits": BITS, "group_size": GROUP, "zero_point": True, "version": "gemm"},
    "gptq": {"quant_method": "gptq", "bits": BITS, "group_size": GROUP, "desc_act": True, "sym": True},
}


def words(*shape: int) -> Tensor:
    return torch.randint(-(2**31), 2**31, shape, dtype=torch.int32)


def layer(method: str, outputs: int, inputs: int) -> dict[str, Tensor]:
    """The tensors of one linear layer by the last parts of their names."""
    scales = torch.full((inputs // GROUP, outputs), inputs**-0.5 / SPREAD, dtype=torch.float16)
    if method == "awq":
        return {
            "qweight": words(inputs, outputs // PER_WORD), "qzeros": words(inputs // GROUP, outputs // PER_WORD),
            "scales": scales,
        }  # fmt: skip
    zeros = torch.full((inputs // GROUP, outputs // PER_WORD), EIGHTS, dtype=torch.int32)
    order = torch.Generator().manual_seed(inputs)  # layers with the same inputs have one order, as GPTQ's do
    groups = (torch.randperm(inputs, generator=order) // GROUP).to(torch.int32)
    return {"qweight": words(inputs // PER_WORD, outputs), "qzeros": zeros, "scales": scales, "g_idx": groups}


def write(source: Path, target: Path, method: str) -> None:
    """The checkpoint. What is no layer's matrix is copied from `source`."""
    torch.manual_seed(0)
    target.mkdir(parents=True, exist_ok=True)
    for file in source.iterdir():
        if file.suffix in (".json", ".jinja"):
            shutil.copyfile(file, target / file.name)
    tensors: dict[str, Tensor] = {}
    with safe_open(source / "model.safetensors", framework="pt") as file:
        for name in file.keys():  # noqa: SIM118
            shape = file.get_slice(name).get_shape()
            if "_proj." in name:
                made = layer(method, *shape)
                tensors |= {f"{name.removesuffix('weight')}{last}": tensor for last, tensor in made.items()}
            else:
                tensors[name] = file.get_tensor(name)
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((source / "config.json").read_text())
    (target / "config.json").write_text(json.dumps(config | {"quantization_config": SETTINGS[method]}, indent=2))


if __name__ == "__main__":
    write(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])

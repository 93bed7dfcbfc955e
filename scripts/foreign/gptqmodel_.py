"""Checkpoints that gptqmodel writes: GPTQ of 2, 3, 4 and 8 bits, with and without act-order."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import torch
from common import calibration, finish, fresh
from gptqmodel import BACKEND, GPTQModel, QuantizeConfig
from gptqmodel.nn_modules.qlinear.torch import TorchQuantLinear
from safetensors.torch import load_file, save_file

VARIANTS = {
    "gptq-4bit-g128": {"bits": 4, "group_size": 128, "desc_act": False},
    "gptq-4bit-g32-act": {"bits": 4, "group_size": 32, "desc_act": True},
    "gptq-4bit-g64-asym-act": {"bits": 4, "group_size": 64, "desc_act": True, "sym": False},
    "gptq-4bit-act": {"bits": 4, "group_size": -1, "desc_act": True},
    "gptq_v2-4bit-g32-asym": {"bits": 4, "group_size": 32, "desc_act": False, "sym": False, "format": "gptq_v2"},
    "gptq-2bit-g32": {"bits": 2, "group_size": 32, "desc_act": False},
    "gptq-3bit-g64-asym-act": {"bits": 3, "group_size": 64, "desc_act": True, "sym": False},
    "gptq-8bit-g32-act": {"bits": 8, "group_size": 32, "desc_act": True},
}  # fmt: skip


def dense(directory: Path) -> dict[str, torch.Tensor]:
    """What gptqmodel itself makes of a checkpoint's codes, float32."""
    model = GPTQModel.load(str(directory), device="cpu", backend=BACKEND.TORCH, dtype=torch.float16).model
    found = {}
    for name, module in model.named_modules():
        if isinstance(module, TorchQuantLinear):
            module.scales = module.scales.float()
            found[name] = module.dequantize_weight().T
    return found


def raised(source: Path, place: Path) -> Path:
    """The same model with every fifth output's weights above 0, so that there are zero points of 0."""
    shutil.copytree(source, fresh(place))
    tensors = load_file(source / "model.safetensors")
    for name, weight in tensors.items():
        if "_proj" in name:
            weight[::5] -= weight[::5].amin(dim=1, keepdim=True)
    save_file(tensors, place / "model.safetensors", {"format": "pt"})
    return place


def main(source: Path, out: Path, only: list[str]) -> None:
    for name, options in VARIANTS.items():
        if only and name not in only:
            continue
        config = QuantizeConfig(offload_to_disk=False, **options)
        own = source if config.sym else raised(source, out / "raised")
        model = GPTQModel.load(str(own), config, device="cpu", dtype=torch.float16)
        model.quantize([{"input_ids": ids, "attention_mask": [1] * len(ids)} for ids in calibration()], batch_size=1)
        model.save(str(fresh(out / name)))
        finish(out / name, dense(out / name))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])

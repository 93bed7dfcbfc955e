"""Checkpoints that transformers writes with bitsandbytes: LLM.int8, NF4 and FP4, the latter nested and not."""

from __future__ import annotations

import sys
from pathlib import Path

import bitsandbytes as bnb
import torch
from common import finish, fresh
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

VARIANTS = {
    "bitsandbytes-int8": {"load_in_8bit": True},
    "bitsandbytes-nf4": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
    "bitsandbytes-nf4-nested": {
        "load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True,
    },
    "bitsandbytes-fp4": {"load_in_4bit": True, "bnb_4bit_quant_type": "fp4"},
    "bitsandbytes-fp4-nested": {
        "load_in_4bit": True, "bnb_4bit_quant_type": "fp4", "bnb_4bit_use_double_quant": True,
    },
}  # fmt: skip


def dense(module: torch.nn.Module) -> torch.Tensor:
    """What bitsandbytes itself makes of a layer's codes, float32."""
    if isinstance(module, bnb.nn.Linear8bitLt):
        return bnb.functional.int8_vectorwise_dequant(module.weight.data, module.weight.SCB).float()
    state = module.weight.quant_state
    state.dtype = torch.float32
    return bnb.functional.dequantize_4bit(module.weight.data, state)


def main(source: Path, out: Path) -> None:
    for name, options in VARIANTS.items():
        config = BitsAndBytesConfig(**options)
        model = AutoModelForCausalLM.from_pretrained(source, quantization_config=config, dtype=torch.float16)
        # before the first forward, which repacks the codes for the processor and takes the sizes of the steps away
        model.save_pretrained(fresh(out / name))
        linear = (bnb.nn.Linear8bitLt, bnb.nn.Linear4bit)
        finish(out / name, {n: dense(m) for n, m in model.named_modules() if isinstance(m, linear)})


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))

"""Checkpoints that AutoGPTQ writes."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from auto_gptq import BaseQuantizeConfig
from auto_gptq.modeling import _base
from auto_gptq.modeling.llama import LlamaGPTQForCausalLM
from common import calibration, finish, fresh
from transformers import AutoModelForCausalLM

VARIANTS = {"gptq-4bit-g128-act-autogptq": {"bits": 4, "group_size": 128, "desc_act": True, "sym": True}}


def dense(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """What AutoGPTQ itself makes of a layer's codes, float32: the layer's outputs for each input alone."""
    found = {}
    for name, module in model.named_modules():
        if type(module).__name__ == "QuantLinear":
            module.scales = module.scales.float()
            found[name] = module(torch.eye(module.infeatures)).T.contiguous()
    return found


def main(source: Path, out: Path) -> None:
    # It wants a GPU that it can do without: past its from_pretrained, which refuses, it names one as a constant.
    _base.CUDA_0 = torch.device("cpu")
    torch.cuda.synchronize = lambda device=None: None
    for name, options in VARIANTS.items():
        loaded = AutoModelForCausalLM.from_pretrained(source, torch_dtype=torch.float16)
        model = LlamaGPTQForCausalLM(loaded, False, BaseQuantizeConfig(**options))
        texts = [{"input_ids": torch.tensor([i]), "attention_mask": torch.ones(1, len(i))} for i in calibration()]
        model.quantize(texts, cache_examples_on_gpu=False)
        model.save_quantized(str(fresh(out / name)), use_safetensors=True)
        with torch.no_grad():
            finish(out / name, dense(model.model))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))

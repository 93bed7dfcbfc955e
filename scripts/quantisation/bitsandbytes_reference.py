"""Log-probabilities by transformers, with the linear layers of the model as the bitsandbytes package quantises them.

    PYTHON bitsandbytes_reference.py DIRECTORY WINDOWS.json

What the package makes of each weight of 4 bits is widened by the package again, to bfloat16, and multiplied by torch:
so the numbers are those of its weights, whatever its kernels do. LLM.int8, which rounds inputs too, runs as the package
runs it. Prints JSON: a list for each of int8, nf4, fp4 and none.
"""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path

import torch
from bitsandbytes import functional
from bitsandbytes.nn import Linear8bitLt
from torch import nn
from transformers import AutoModelForCausalLM

BLOCK = 64


def quantise(model: nn.Module, kind: str) -> None:
    """Replace the weights of the layers' products by what is left of them; the output head stays."""
    for module in model.model.layers.modules():
        if isinstance(module, nn.Linear):
            quantised, state = functional.quantize_4bit(
                module.weight.data, blocksize=BLOCK, compress_statistics=True, quant_type=kind
            )
            module.weight.data = functional.dequantize_4bit(quantised, state).to(module.weight.dtype)


def quantise_int8(model: nn.Module) -> None:
    """Replace the layers by the package's own, with the threshold of the paper."""
    for parent in list(model.model.layers.modules()):
        for name, module in list(parent.named_children()):
            if isinstance(module, nn.Linear):
                layer = Linear8bitLt(
                    module.in_features, module.out_features, bias=False, has_fp16_weights=False, threshold=6.0
                )
                layer.load_state_dict(module.state_dict())
                setattr(parent, name, layer.to("cpu").eval())  # in training it would not round inputs


@torch.inference_mode()
def scores(model: nn.Module, windows: list[list[int]]) -> list[float]:
    """Log-probabilities of each window's tokens after the first."""
    found: list[float] = []
    for window in windows:
        ids = torch.tensor([window])
        logits = model(ids, use_cache=False).logits[0, :-1].float()
        found += logits.log_softmax(-1).gather(1, ids[0, 1:, None])[:, 0].tolist()
    return found


def main() -> None:
    directory, windows = sys.argv[1], json.loads(Path(sys.argv[2]).read_text())
    told = {}
    warnings.filterwarnings("ignore", message="MatMul8bitLt")
    for kind in ("int8", "nf4", "fp4", "none"):
        model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.bfloat16).eval()
        if kind == "int8":
            quantise_int8(model)
        elif kind != "none":
            quantise(model, kind)
        told[kind] = scores(model, windows)
    print(json.dumps(told))


if __name__ == "__main__":
    main()

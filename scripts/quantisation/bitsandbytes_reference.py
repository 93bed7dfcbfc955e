"""Log-probabilities by transformers, with the linear layers of the model as the bitsandbytes package quantises them.

    PYTHON bitsandbytes_reference.py DIRECTORY WINDOWS.json

What the package makes of each weight is widened by the package again, to bfloat16, and multiplied by torch: so the
numbers are those of its 4-bit weights, whatever its kernels do. Prints JSON: a list for each of nf4, fp4 and none.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from bitsandbytes import functional
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
    for kind in ("nf4", "fp4", "none"):
        model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.bfloat16).eval()
        if kind != "none":
            quantise(model, kind)
        told[kind] = scores(model, windows)
    print(json.dumps(told))


if __name__ == "__main__":
    main()

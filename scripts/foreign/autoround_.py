"""Checkpoints that AutoRound writes in the formats of AutoGPTQ and AutoAWQ."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from auto_round import AutoRound
from auto_round.export.export_to_awq.utils import dequantize_gemm
from auto_round_extension.torch.qlinear_torch_zp import QuantLinear
from common import calibration, finish, fresh, layers
from transformers import AutoModelForCausalLM, AutoTokenizer

VARIANTS = {
    "gptq-3bit-g32-asym-autoround": ("auto_gptq", {"bits": 3, "group_size": 32, "sym": False}),
    "awq-g64-sym-autoround": ("auto_awq", {"bits": 4, "group_size": 64, "sym": True}),
    "awq-g128-autoround": ("auto_awq", {"bits": 4, "group_size": 128, "sym": False}),
}  # fmt: skip


def dense(directory: Path, style: str, bits: int, group: int) -> dict[str, torch.Tensor]:
    """What AutoRound itself makes of a checkpoint's codes, float32."""
    found = {}
    for name, own in layers(directory)[1].items():
        own["scales"] = own["scales"].float()
        if style == "auto_awq":
            found[name] = dequantize_gemm(own["qweight"], own["qzeros"], own["scales"], bits, group).T
            continue
        outputs, inputs = own["scales"].shape[1], own["qweight"].shape[0] * 32 // bits
        layer = QuantLinear(bits, group, inputs, outputs, False)
        for suffix, tensor in own.items():
            if hasattr(layer, suffix):
                setattr(layer, suffix, tensor)
        found[name] = layer(torch.eye(inputs)).T.contiguous()
    return found


def main(source: Path, out: Path) -> None:
    for name, (style, options) in VARIANTS.items():
        model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float16)
        tokenizer = AutoTokenizer.from_pretrained(source)
        texts = [torch.tensor([ids]) for ids in calibration()]
        rounding = AutoRound(
            model, tokenizer=tokenizer, dataset=texts, iters=5, nsamples=48, seqlen=32, device_map="cpu", **options
        )
        written = fresh(out / "autoround")
        rounding.quantize_and_save(str(written), format=style)
        (own,) = written.iterdir()  # it names a directory of its own in it
        own.rename(fresh(out / name))
        finish(out / name, dense(out / name, style, options["bits"], options["group_size"]))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))

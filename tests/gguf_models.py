"""GGUF files of tiny transformers models, written as llama.cpp's convert_hf_to_gguf.py writes them.

The names come from the table of the `gguf` package, as they do there; what the converter does to tensors and which
metadata it writes is told here once more, in its own direction, so that the reader is not tested by itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import MODEL_ARCH, MODEL_ARCH_NAMES, GGMLQuantizationType, GGUFWriter, get_tensor_name_map
from numpy.typing import NDArray
from safetensors.numpy import load_file

from tests.gguf_files import add

VOCABULARY = 101
TOKENIZER = {
    "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "gpt-2", "tokenizer.ggml.merges": ["a b"],
    "tokenizer.ggml.tokens": ["a", "b", "ab", *(f"t{number}" for number in range(3, VOCABULARY))],
    "tokenizer.ggml.token_type": [1] * VOCABULARY, "tokenizer.ggml.eos_token_id": 1,
}  # fmt: skip

Array = NDArray[np.float32]
Named = Iterator[tuple[str, Array]]
"""Names of transformers (for the table), or names of GGUF, which begin with `=`."""
Metadata = dict[str, Any]


Store = Callable[[str, Array], tuple[NDArray[Any], GGMLQuantizationType]]


def as_they_are(name: str, values: Array) -> tuple[NDArray[Any], GGMLQuantizationType]:
    return values, GGMLQuantizationType.F32


def unchanged(name: str, values: Array, config: Any) -> Named:
    yield name, values


@dataclass(frozen=True)
class Original:
    """A model of transformers, and what the converter does with its kind.

    Attributes:
        architecture: of GGUF.
        config: name of the class of its configuration.
        numbers: its arguments.
        change: from a tensor to those that are stored.
        metadata: beside the usual.
        extra: tensors that are no weights.
    """

    architecture: str
    config: str
    numbers: Mapping[str, Any]
    change: Callable[[str, Array, Any], Named] = unchanged
    metadata: Callable[[Any], Metadata] = lambda config: {}
    extra: Callable[[Any], Mapping[str, Array]] = lambda config: {}

    def make(self) -> Any:
        """transformers' own float32 module; norms and biases are random too."""
        import transformers

        torch.manual_seed(0)
        config = getattr(transformers, self.config)(
            vocab_size=VOCABULARY, bos_token_id=1, eos_token_id=1, pad_token_id=0, initializer_range=0.2, **self.numbers
        )
        config._attn_implementation = "eager"
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1 or "bias" in name:
                torch.nn.init.normal_(parameter, 0.7 if name.endswith("weight") else 0.0, 0.3)
        return model

    def write(self, path: Path, model: Any, store: Store = as_they_are, metadata: Metadata | None = None) -> Path:
        """Write the file; `store` says how a tensor of this GGUF name is stored, `metadata` replaces values."""
        model.save_pretrained(path.with_suffix(""))
        writer = GGUFWriter(path, self.architecture)
        usual = {**self._usual(model.config), **self.metadata(model.config), **TOKENIZER, **(metadata or {})}
        for key, value in usual.items():
            add(writer, key.replace("{arch}", self.architecture), value)
        for name, values in self.tensors(path.with_suffix(""), model.config):
            stored, kind = store(name, values)
            writer.add_tensor(name, stored, raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path

    def tensors(self, directory: Path, config: Any) -> Named:
        """What is stored of a checkpoint, experts side by side."""
        architecture = next(arch for arch in MODEL_ARCH if MODEL_ARCH_NAMES[arch] == self.architecture)
        table = get_tensor_name_map(architecture, config.num_hidden_layers)
        experts: dict[str, dict[int, Array]] = {}
        for theirs, tensor in load_file(directory / "model.safetensors").items():
            for name, values in self.change(theirs, tensor, config):
                stem, _, suffix = name.rpartition(".")
                if name.startswith("="):
                    yield name[1:], np.ascontiguousarray(values)
                elif ".experts." in name:
                    before, _, after = stem.partition(".experts.")
                    number, _, which = after.partition(".")
                    stored = table.get_name(f"{before}.experts.{which}")
                    experts.setdefault(f"{stored}.{suffix}", {})[int(number)] = values
                else:
                    stored = table.get_name(stem)
                    assert stored is not None, name
                    yield f"{stored}.{suffix}", np.ascontiguousarray(values)
        for name, parts in experts.items():
            yield name, np.stack([parts[number] for number in range(len(parts))])
        yield from self.extra(config).items()

    def _usual(self, config: Any) -> Metadata:
        """What the converter writes of every text model, where its configuration has it."""
        whole = {
            "block_count": ("num_hidden_layers", "n_layer"), "embedding_length": ("hidden_size", "n_embd", "d_model"),
            "context_length": ("max_position_embeddings", "n_positions", "max_seq_len"),
            "feed_forward_length": ("intermediate_size", "n_inner", "ffn_hidden_size"),
            "attention.head_count": ("num_attention_heads", "n_head"),
            "attention.head_count_kv": ("num_key_value_heads",), "vocab_size": ("vocab_size",),
            "attention.key_length": ("head_dim",), "attention.value_length": ("head_dim",),
            "expert_count": ("num_local_experts", "num_experts"), "expert_used_count": ("num_experts_per_tok",),
        }  # fmt: skip
        floats = {
            "attention.layer_norm_rms_epsilon": ("rms_norm_eps",),
            "attention.layer_norm_epsilon": ("layer_norm_eps", "layer_norm_epsilon", "norm_epsilon"),
        }
        found: Metadata = {}
        for kind, names in ((int, whole), (float, floats)):
            for key, entries in names.items():
                values = [value for entry in entries if (value := getattr(config, entry, None)) is not None]
                if values:
                    found[f"{{arch}}.{key}"] = kind(values[0])
        found.setdefault("{arch}.feed_forward_length", 4 * found["{arch}.embedding_length"])
        theta = (getattr(config, "rope_parameters", None) or {}).get("rope_theta")
        return found | ({"{arch}.rope.freq_base": float(theta)} if theta else {})


def permuted(values: Array, heads: int) -> Array:
    """Rows of rotary heads as llama.cpp turns them."""
    rows = values.shape[0]
    return values.reshape(heads, 2, rows // heads // 2, *values.shape[1:]).swapaxes(1, 2).reshape(values.shape)


def _llama(name: str, values: Array, config: Any) -> Named:
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    count = next((count for which, count in heads.items() if which in name), 0)
    yield name, permuted(values, count) if count else values


def _mixtral_apart(name: str, values: Array, config: Any) -> Named:
    """A tensor an expert."""
    if ".experts." in name:
        _, _, block, _, _, number, which, suffix = name.split(".")
        yield f"=blk.{block}.ffn_{ {'w1': 'gate', 'w3': 'up', 'w2': 'down'}[which] }.{number}.{suffix}", values
    else:
        yield from _llama(name, values, config)


def _gemma(name: str, values: Array, config: Any) -> Named:
    yield name, values + 1 if name.endswith("norm.weight") else values


def _gpt2(name: str, values: Array, config: Any) -> Named:
    turned = name.endswith(("c_attn.weight", "c_proj.weight", "c_fc.weight"))
    yield name, values.T if turned else values


def _heads_together(name: str, values: Array, config: Any) -> Named:
    """BLOOM and GPT-NeoX: all queries, then all keys, then all values."""
    if "query_key_value" in name:
        parts = values.reshape(config.num_attention_heads, 3, -1, *values.shape[1:])
        values = np.concatenate([parts[:, i].reshape(-1, *values.shape[1:]) for i in range(3)])
    yield name.removeprefix("transformer."), values


def _neox(name: str, values: Array, config: Any) -> Named:
    for _, changed in _heads_together(name, values, config):
        yield name, changed


def _falcon(name: str, values: Array, config: Any) -> Named:
    if "query_key_value" in name:
        groups = config.num_kv_heads if config.new_decoder_architecture else 1
        width = config.hidden_size // config.num_attention_heads
        parts = values.reshape(groups, config.num_attention_heads // groups + 2, width, -1)
        pieces = (parts[:, :-2], parts[:, [-2]], parts[:, [-1]])
        values = np.concatenate([piece.reshape(-1, values.shape[1]) for piece in pieces])
    yield name, values


def _phi_fused(name: str, values: Array, config: Any) -> Named:
    """As files of phi-2 before transformers took the model in."""
    block = name.split(".")[2] if ".layers." in name else ""
    suffix = name.rpartition(".")[2]
    if "q_proj" in name or "k_proj" in name or "v_proj" in name:
        _PARTS.setdefault((block, suffix), {})[name.split(".")[4]] = values
        if len(parts := _PARTS[block, suffix]) == 3:
            del _PARTS[block, suffix]
            fused = np.concatenate([parts[which] for which in ("q_proj", "k_proj", "v_proj")])
            yield f"=blk.{block}.attn_qkv.{suffix}", fused
    else:
        yield name, values


_PARTS: dict[tuple[str, str], dict[str, Array]] = {}


def _gpt_oss(name: str, values: Array, config: Any) -> Named:
    if "sinks" in name:
        yield f"{name}.weight", values
    elif "experts" in name:
        block = name.split(".")[2]
        suffix = "bias" if name.endswith("_bias") else "weight"
        turned = values if suffix == "bias" else values.swapaxes(1, 2)
        if "down_proj" in name:
            yield f"=blk.{block}.ffn_down_exps.{suffix}", turned
        else:
            yield f"=blk.{block}.ffn_gate_exps.{suffix}", turned[:, ::2]
            yield f"=blk.{block}.ffn_up_exps.{suffix}", turned[:, 1::2]
    else:
        yield name, values


def _qwen2_moe(name: str, values: Array, config: Any) -> Named:
    yield name, values[0] if "shared_expert_gate." in name else values


def _llama3_factors(config: Any) -> Mapping[str, Array]:
    """The divisors that the converter computes."""
    rope, width = config.rope_parameters, config.head_dim
    factors = []
    for number in range(0, width, 2):
        wavelength = 2 * math.pi * rope["rope_theta"] ** (number / width)
        low = rope["original_max_position_embeddings"] / rope["low_freq_factor"]
        high = rope["original_max_position_embeddings"] / rope["high_freq_factor"]
        if wavelength < high:
            factors.append(1.0)
        elif wavelength > low:
            factors.append(rope["factor"])
        else:
            smooth = rope["original_max_position_embeddings"] / wavelength - rope["low_freq_factor"]
            smooth /= rope["high_freq_factor"] - rope["low_freq_factor"]
            factors.append(1 / ((1 - smooth) / rope["factor"] + smooth))
    return {"rope_freqs.weight": np.array(factors, np.float32)}


def _long_factors(config: Any) -> Mapping[str, Array]:
    rope = config.rope_parameters
    return {
        "rope_factors_long.weight": np.array(rope["long_factor"], np.float32),
        "rope_factors_short.weight": np.array(rope["short_factor"], np.float32),
    }


def _longrope(config: Any) -> Metadata:
    original = config.original_max_position_embeddings
    scale = config.max_position_embeddings / original
    return {
        "{arch}.rope.scaling.original_context_length": original,
        "{arch}.rope.scaling.attn_factor": math.sqrt(1 + math.log(scale) / math.log(original)),
        "{arch}.attention.sliding_window": config.sliding_window or 0,
        "{arch}.rope.dimension_count": config.head_dim if hasattr(config, "head_dim") else 16,
    }


def _yarn(config: Any) -> Metadata:
    rope = config.rope_parameters
    return {
        "{arch}.rope.scaling.type": "yarn",
        "{arch}.rope.scaling.factor": float(rope["factor"]),
        "{arch}.rope.scaling.original_context_length": rope["original_max_position_embeddings"],
    }


SMALL = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 128,
}  # fmt: skip
_GROUP = {**SMALL, "head_dim": 32}
_YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 32}
_LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip
_LONG = {
    "rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0 + i / 8 for i in range(8)],
    "long_factor": [2.0 + i for i in range(8)],
}  # fmt: skip
_GEMMA3_ROPE = {
    "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
    "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
}

ORIGINALS = {
    "llama": Original("llama", "LlamaConfig", {**_GROUP, "attention_bias": True, "mlp_bias": True}, _llama),
    "llama 3": Original(
        "llama", "LlamaConfig", {**_GROUP, "tie_word_embeddings": True, "rope_parameters": _LLAMA3}, _llama,
        extra=_llama3_factors,
    ),
    "mistral": Original(
        "llama", "MistralConfig", {**SMALL, "sliding_window": 9}, _llama,
        lambda config: {"{arch}.attention.sliding_window": 9},
    ),
    "mixtral": Original(
        "llama", "MixtralConfig", {**SMALL, "num_local_experts": 4, "num_experts_per_tok": 2}, _llama
    ),
    "mixtral, first files": Original(
        "llama", "MixtralConfig", {**SMALL, "num_local_experts": 4, "num_experts_per_tok": 2}, _mixtral_apart
    ),
    "qwen2": Original("qwen2", "Qwen2Config", {**SMALL, "rope_parameters": _YARN}, metadata=_yarn),
    "qwen3": Original("qwen3", "Qwen3Config", _GROUP),
    "qwen3moe": Original(
        "qwen3moe", "Qwen3MoeConfig",
        {**_GROUP, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "norm_topk_prob": True},
        metadata=lambda config: {"{arch}.expert_feed_forward_length": 32},
    ),
    "qwen2moe": Original(
        "qwen2moe", "Qwen2MoeConfig",
        {**SMALL, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32,
         "shared_expert_intermediate_size": 48}, _qwen2_moe,
        lambda config: {"{arch}.expert_feed_forward_length": 32, "{arch}.expert_shared_feed_forward_length": 48},
    ),
    "olmoe": Original("olmoe", "OlmoeConfig", {**SMALL, "num_experts": 4, "num_experts_per_tok": 2}),
    "gemma": Original("gemma", "GemmaConfig", _GROUP, _gemma),
    "gemma2": Original(
        "gemma2", "Gemma2Config", {**_GROUP, "sliding_window": 20, "query_pre_attn_scalar": 32,
        "attn_logit_softcapping": 5.0, "final_logit_softcapping": 4.0}, _gemma,
        lambda config: {"{arch}.attention.sliding_window": 20, "{arch}.attn_logit_softcapping": 5.0,
                        "{arch}.final_logit_softcapping": 4.0},
    ),
    "gemma3": Original(
        "gemma3", "Gemma3TextConfig",
        {**_GROUP, "num_hidden_layers": 6, "sliding_window": 9, "query_pre_attn_scalar": 32,
         "rope_parameters": _GEMMA3_ROPE}, _gemma,
        lambda config: {"{arch}.attention.sliding_window": 9, "{arch}.rope.freq_base": 1e6,
                        "{arch}.rope.scaling.type": "linear", "{arch}.rope.scaling.factor": 8.0},
    ),
    "phi2": Original(
        "phi2", "PhiConfig", SMALL, metadata=lambda config: {"{arch}.rope.dimension_count": 8},
    ),
    "phi2 fused": Original(
        "phi2", "PhiConfig", SMALL, _phi_fused, lambda config: {"{arch}.rope.dimension_count": 8},
    ),
    "phi3": Original(
        "phi3", "Phi3Config", {**SMALL, "sliding_window": 25, "original_max_position_embeddings": 64,
        "rope_parameters": _LONG}, metadata=_longrope, extra=_long_factors,
    ),
    "phi4 partly turned": Original(
        "phi3", "Phi3Config",
        {**SMALL, "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.75}},
        metadata=lambda config: {"{arch}.rope.dimension_count": 12},
    ),
    "gpt2": Original("gpt2", "GPT2Config", {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 128}, _gpt2),
    "starcoder": Original(
        "starcoder", "GPTBigCodeConfig", {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 128},
        metadata=lambda config: {"{arch}.attention.head_count_kv": 1},
    ),
    "starcoder2": Original("starcoder2", "Starcoder2Config", {**SMALL, "sliding_window": None}),
    "gptneox": Original(
        "gptneox", "GPTNeoXConfig", {name: SMALL[name] for name in SMALL if "key_value" not in name}, _neox,
        lambda config: {"{arch}.use_parallel_residual": True, "{arch}.rope.dimension_count": 4},
    ),
    "gptneox one after the other": Original(
        "gptneox", "GPTNeoXConfig",
        {**{name: SMALL[name] for name in SMALL if "key_value" not in name}, "use_parallel_residual": False}, _neox,
        lambda config: {"{arch}.use_parallel_residual": False, "{arch}.rope.dimension_count": 4},
    ),
    "falcon 7b": Original(
        "falcon", "FalconConfig", {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}, _falcon,
        lambda config: {"{arch}.attention.head_count_kv": 1, "{arch}.tensor_data_layout": "jploski"},
    ),
    "falcon 40b": Original(
        "falcon", "FalconConfig", {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
        "new_decoder_architecture": True, "num_kv_heads": 2}, _falcon,
        lambda config: {"{arch}.attention.head_count_kv": 2},
    ),
    "bloom": Original(
        "bloom", "BloomConfig", {"hidden_size": 96, "n_layer": 2, "n_head": 6}, _heads_together,
        lambda config: {"{arch}.context_length": 2048, "{arch}.attention.head_count_kv": 6},
    ),
    "mpt": Original(
        "mpt", "MptConfig", {"d_model": 96, "n_heads": 6, "n_layers": 2, "max_seq_len": 128},
        metadata=lambda config: {"{arch}.attention.max_alibi_bias": 8.0, "{arch}.attention.head_count": 6},
    ),
    "smollm3": Original("smollm3", "SmolLM3Config", {**SMALL, "num_hidden_layers": 4}, _llama),
    "granite": Original(
        "granite", "GraniteConfig", {**SMALL, "embedding_multiplier": 6.0, "residual_multiplier": 0.4,
        "attention_multiplier": 0.2, "logits_scaling": 3.0}, _llama,
        lambda config: {"{arch}.attention.scale": 0.2, "{arch}.embedding_scale": 6.0, "{arch}.residual_scale": 0.4,
                        "{arch}.logit_scale": 3.0},
    ),
    "olmo": Original(
        "olmo", "OlmoConfig", SMALL, _llama, lambda config: {"{arch}.attention.layer_norm_epsilon": 1e-5},
    ),
    "olmo2": Original("olmo2", "Olmo2Config", SMALL),
    "olmo3": Original(
        "olmo2", "Olmo3Config",
        {**SMALL, "num_hidden_layers": 4, "sliding_window": 9,
         "rope_parameters": {"full_attention": _YARN,
                             "sliding_attention": {"rope_type": "default", "rope_theta": 1e4}}},
        metadata=lambda config: {
            "{arch}.rope.scaling.type": "yarn", "{arch}.rope.scaling.factor": 4.0, "{arch}.rope.freq_base": 1e4,
            "{arch}.rope.scaling.original_context_length": 32, "{arch}.attention.sliding_window": 9,
            "{arch}.attention.sliding_window_pattern": [True, True, True, False],
        },
    ),
    "gpt-oss": Original(
        "gpt-oss", "GptOssConfig",
        {**_GROUP, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 9,
         "layer_types": ["sliding_attention", "full_attention"], "rope_parameters": {**_YARN, "truncate": False}},
        _gpt_oss,
        lambda config: {**_yarn(config), "{arch}.expert_feed_forward_length": 96,
                        "{arch}.attention.sliding_window": 9},
    ),
}  # fmt: skip

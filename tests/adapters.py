"""LoRA adapters that PEFT makes over small random models of transformers, and what PEFT makes of them."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

VOCABULARY = 50
SMALL: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", {
        "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 64, "tie_word_embeddings": False, "attention_bias": True,
    }),
    "gpt2": ("GPT2Config", {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}),
    "bloom": ("BloomConfig", {"hidden_size": 32, "n_layer": 2, "n_head": 4}),
    "phi3": ("Phi3Config", {
        "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 64, "tie_word_embeddings": False,
    }),
}  # fmt: skip


def make_base(family: str, directory: Path, **numbers: Any) -> Path:
    """Write a small random model, float32."""
    import transformers

    torch.manual_seed(0)
    name, own = SMALL[family]
    common = {"vocab_size": VOCABULARY, "bos_token_id": 1, "eos_token_id": 1, "pad_token_id": 0}
    config = getattr(transformers, name)(initializer_range=0.2, **common | own | numbers)
    transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(directory)
    return directory


def make_adapter(base: Path, directory: Path, safe: bool = True, **settings: Any) -> Any:
    """Write an adapter of random numbers over the model in `base`; returns PEFT's model with it."""
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(base)
    return write_adapter(model, directory, str(base), safe, task_type="CAUSAL_LM", **settings)


def write_adapter(model: Any, directory: Path, base: str, safe: bool = True, **settings: Any) -> Any:
    """The same over a model of transformers, which the adapter calls `base`."""
    import peft

    torch.manual_seed(1)
    model.name_or_path = base
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adapted = peft.get_peft_model(model, peft.LoraConfig(**settings)).eval()
        for name, parameter in adapted.named_parameters():
            if parameter.requires_grad or "lora_" in name or "trainable_tokens_delta" in name:
                torch.nn.init.normal_(parameter, 0.0, 0.2)
        adapted.save_pretrained(str(directory), safe_serialization=safe)
    return adapted


def merged(adapted: Any) -> Any:
    """The plain model that PEFT merges it to."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return adapted.merge_and_unload()


def logits(model: Any, prompt: list[int]) -> Tensor:
    """Of all positions, `[tokens, vocabulary]`."""
    with torch.no_grad():
        scores: Tensor = model(torch.tensor([prompt]), use_cache=False).logits[0]
    return scores

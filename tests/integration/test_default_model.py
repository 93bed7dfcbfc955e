"""A directory like that of the documented default model, bigscience/bloom-560m, served; and one with windows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.integration import reference
from tests.integration.server import Server

PROMPTS = ["The capital of France is", "1, 2, 3, 4, 5,", "word " * 60]
NEW_TOKENS = 12


def write(directory: Path, config: Any) -> Any:
    """A small random model with the demo model's tokenizer; gives transformers' own module of it."""
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    config._attn_implementation = "eager"
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    model.save_pretrained(directory)
    reference.tokenizer().save_pretrained(directory)
    return model


def greedy(model: Any, prompt: str) -> list[int]:
    ids = torch.tensor([reference.tokenizer()(prompt)["input_ids"]])
    answer = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW_TOKENS, do_sample=False, eos_token_id=None,
        pad_token_id=0,
    )  # fmt: skip
    new: list[int] = answer[0, ids.shape[1] :].tolist()
    return new


def serves(directory: Path, model: Any, *options: str) -> str:
    """The greedy text of each prompt is that of transformers; gives the server's log."""
    with Server(f"model_id={directory}", "dtype=float32", *options) as server:
        for prompt in PROMPTS:
            answer: Any = server.generate(prompt, max_new_tokens=NEW_TOKENS, details=True)
            tokens = [token["id"] for token in answer["details"]["tokens"]]
            assert tokens == greedy(model, prompt)[: len(tokens)]
        return server.output


def test_bloom_as_it_is_on_the_hub(tmp_path: Path) -> None:
    """Its tensors have no prefix, its configuration the old names, and nothing limits the length of a text."""
    import json

    from transformers import BloomConfig

    vocabulary = len(reference.tokenizer())
    model = write(
        tmp_path, BloomConfig(vocab_size=vocabulary, hidden_size=64, n_layer=2, n_head=4, initializer_range=0.2)
    )
    file = tmp_path / "model.safetensors"
    save_file({name.removeprefix("transformer."): tensor for name, tensor in load_file(file).items()}, file)
    config = json.loads((tmp_path / "config.json").read_text())
    config["n_embed"] = config.pop("hidden_size")
    config["num_attention_heads"] = config.pop("n_head")
    (tmp_path / "config.json").write_text(json.dumps(config))
    log = serves(tmp_path, model)
    assert "memory: cache, full, 2 layers" in log


@pytest.mark.parametrize("options", [(), ("batching=chunked", "prefill_chunk_tokens=16")], ids=["pausing", "chunked"])
def test_windows_are_served(tmp_path: Path, options: tuple[str, ...]) -> None:
    from transformers import Gemma2Config

    model = write(
        tmp_path,
        Gemma2Config(
            vocab_size=len(reference.tokenizer()), hidden_size=64, intermediate_size=96, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=2, head_dim=16, sliding_window=24, initializer_range=0.2,
        ),
    )  # fmt: skip
    log = serves(tmp_path, model, *options)
    assert "memory: cache, window of 24 positions, 1 layers" in log

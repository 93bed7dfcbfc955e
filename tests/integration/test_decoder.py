"""The decoder against transformers beyond what every family shows: odd shapes, and errors that name tensors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.models import Steps, needs
from tgi_server.errors import ModelError

IDS = [3, 17, 25, 9, 80, 3, 3, 41, 77, 5, 62, 99, 1, 0, 50, 33, 21, 8, 90, 14]


def make_model(directory: Path, **changes: Any) -> Any:
    """Write a random Llama to `directory` and return transformers' own float32 module of it."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    settings = {
        "vocab_size": 101, "hidden_size": 36, "intermediate_size": 70, "num_hidden_layers": 2, "num_attention_heads": 9,
        "num_key_value_heads": 3, "head_dim": 8, "max_position_embeddings": 64, "initializer_range": 0.3,
    }  # fmt: skip
    model = LlamaForCausalLM(LlamaConfig(**(settings | changes))).eval()
    model.save_pretrained(directory)
    return model


@pytest.mark.parametrize("changes", [{}, {"num_key_value_heads": 9, "tie_word_embeddings": True}], ids=["gqa", "mha"])
def test_heads_that_no_kernel_is_made_for(tmp_path: Path, changes: dict[str, Any]) -> None:
    reference = make_model(tmp_path, **changes)
    with torch.no_grad():
        expected = reference(torch.tensor([IDS])).logits[0]
    steps = Steps(tmp_path, [IDS, IDS], needs())
    assert torch.allclose(steps.logits([0], [20])[0], expected, atol=2e-4)
    chunks = torch.cat([steps.logits([1], [n])[0] for n in (7, 1, 1, 11)])
    assert torch.allclose(chunks, expected, atol=2e-4)


def test_a_missing_tensor_is_named(tmp_path: Path) -> None:
    make_model(tmp_path)
    file = tmp_path / "model.safetensors"
    save_file({n: t for n, t in load_file(file).items() if "layers.1.mlp.up_proj" not in n}, file)
    with pytest.raises(ModelError, match=r"model\.layers\.1\.mlp\.up_proj\.weight is missing"):
        Steps(tmp_path, [IDS], needs())

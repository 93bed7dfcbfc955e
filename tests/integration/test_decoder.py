"""The decoder against transformers on small random models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tgi_server.attention.sdpa import SdpaAttention
from tgi_server.errors import ModelError
from tgi_server.layers.ops import TorchOps
from tgi_server.layers.parallel import Group
from tgi_server.models.decoder import Decoder, attention_shape
from tgi_server.models.spec import read_spec
from tgi_server.models.weights import Checkpoint, WeightLoader
from tgi_server.quantize.none import NoQuantize
from tgi_server.shard.batch import BatchState
from tgi_server.shard.graphs import Forward
from tgi_server.shard.kv_cache import allocate
from tgi_server.types import NewSequence, Plan, SamplingParams

CPU = torch.device("cpu")
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
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter)
    model.save_pretrained(directory)
    return model


def run(directory: Path, chunks: tuple[int, ...] = (len(IDS),)) -> torch.Tensor:
    """Logits at every position of IDS, computed in steps of `chunks` positions."""
    spec = read_spec(directory)
    loader = WeightLoader(Checkpoint(directory), NoQuantize(), Group(), torch.float32, CPU)
    model = Decoder(spec, loader, SdpaAttention(), TorchOps(torch.float32), 64)
    caches = allocate(4, attention_shape(spec, 1), spec.num_layers, torch.float32, CPU)
    state = BatchState(64, CPU)
    state.update(Plan(0, [], [], new=[NewSequence(0, IDS, [2, 1], SamplingParams())]))
    logits = []
    for count in chunks:
        plan = Plan(0, [0], [count])
        inputs = state.inputs(plan)
        with torch.inference_mode():
            part = model.logits(Forward(model, caches)(inputs))
        assert part is not None
        logits.append(part)
        state.advance(plan, [], [])
    return torch.cat(logits)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"num_key_value_heads": 9, "tie_word_embeddings": True},
        {"attention_bias": True, "mlp_bias": True},
        {"rope_parameters": {"rope_type": "linear", "rope_theta": 500.0, "factor": 3.0}},
        {
            "rope_parameters": {
                "rope_type": "llama3", "rope_theta": 100.0, "factor": 8.0, "low_freq_factor": 1.0,
                "high_freq_factor": 4.0, "original_max_position_embeddings": 32,
            }
        },
    ],
    ids=["plain", "tied-mha", "biases", "linear-rope", "llama3-rope"],
)  # fmt: skip
def test_logits_equal_transformers(tmp_path: Path, changes: dict[str, Any]) -> None:
    reference = make_model(tmp_path, **changes)
    with torch.no_grad():
        expected = reference(torch.tensor([IDS])).logits[0]
    assert torch.allclose(run(tmp_path), expected, atol=2e-4)
    assert torch.allclose(run(tmp_path, chunks=(7, 1, 1, 11)), expected, atol=2e-4)


def test_a_missing_tensor_is_named(tmp_path: Path) -> None:
    make_model(tmp_path)
    checkpoint = Checkpoint(tmp_path)
    kept = {n: checkpoint.read(n) for n in checkpoint._files if "layers.1.mlp.up_proj" not in n}
    save_file(kept, tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match=r"model\.layers\.1\.mlp\.up_proj\.weight is missing"):
        run(tmp_path)

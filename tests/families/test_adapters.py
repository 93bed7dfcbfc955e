"""LoRA adapters merged at load, in families that store their matrices differently; PEFT's own merge is the measure."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.adapters import VOCABULARY, logits, make_adapter, make_base, merged
from tests.families.harness import TOLERANCE, ThreadGroup
from tests.models import Steps, needs
from tgi_server.models import adapter
from tgi_server.models.checkpoint import Checkpoint
from tgi_server.models.families import read_spec
from tgi_server.models.merged import Merged
from tgi_server.quantize.eetq import Eetq

PROMPT = torch.randint(2, VOCABULARY, (37,), generator=torch.Generator().manual_seed(1)).tolist()
SETTINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {"target_modules": ["q_proj", "v_proj", "o_proj", "up_proj", "down_proj"], "r": 4}),
    "llama, biases, replaced modules": (
        "llama", {"target_modules": ["k_proj"], "bias": "all", "modules_to_save": ["lm_head", "input_layernorm"]}
    ),
    "llama, patterns": ("llama", {
        "target_modules": ["q_proj", "down_proj"], "r": 4, "lora_alpha": 6,
        "rank_pattern": {"layers.1.mlp.down_proj": 7}, "alpha_pattern": {"q_proj": 3},
    }),
    "llama, stabilized, the biases of the adapter": (
        "llama", {"target_modules": ["q_proj", "k_proj"], "r": 4, "use_rslora": True, "lora_bias": True}
    ),
    "llama, vocabulary": ("llama", {"target_modules": ["embed_tokens", "lm_head"], "r": 4}),
    "gpt2": ("gpt2", {"target_modules": ["c_attn", "c_proj", "c_fc"], "fan_in_fan_out": True}),
    "gpt2, biases": ("gpt2", {"target_modules": ["c_attn", "c_proj"], "bias": "lora_only", "r": 2}),
    "gpt2, positions": ("gpt2", {"target_modules": ["wpe", "c_attn"]}),
    "bloom": ("bloom", {"target_modules": ["query_key_value", "dense", "dense_4h_to_h"], "bias": "all"}),
    "llama, some vectors": ("llama", {"target_modules": ["q_proj"], "trainable_token_indices": [3, 29, 30, 49]}),
    "llama, magnitudes": ("llama", {"target_modules": ["q_proj", "o_proj", "lm_head"], "use_dora": True}),
    "gpt2, magnitudes": ("gpt2", {"target_modules": ["c_attn", "c_proj"], "use_dora": True}),
    "phi3": ("phi3", {"target_modules": "all-linear", "r": 4}),
}  # fmt: skip


def scores(base: Path, adapter_dir: Path | None, world: int = 1, **more: Any) -> Tensor:
    """Of the prompt, with the adapter merged."""
    groups, found = ThreadGroup.of(world), [torch.empty(0)] * world

    def work(rank: int) -> None:
        steps = Steps(base, [PROMPT], needs(), group=groups[rank], adapter_dir=adapter_dir, **more)
        hidden = steps.hidden([0], [len(PROMPT)])
        part = steps.model.logits(hidden)
        found[rank] = torch.empty(0) if part is None else part.clone()

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(1, world)]
    for thread in threads:
        thread.start()
    work(0)
    for thread in threads:
        thread.join()
    return found[0]


def close(got: Tensor, right: Tensor) -> bool:
    return bool((got - right).abs().max() <= TOLERANCE * right.abs().max())


@pytest.mark.parametrize("name", SETTINGS)
def test_merged_like_peft_does(name: str, tmp_path: Path) -> None:
    family, settings = SETTINGS[name]
    base = make_base(family, tmp_path / "base")
    model = merged(make_adapter(base, tmp_path / "adapter", **settings))
    expected = logits(model, PROMPT)
    assert not close(scores(base, None), expected)
    assert close(scores(base, tmp_path / "adapter"), expected)
    assert close(scores(base, tmp_path / "adapter", world=2), expected)


TIED: dict[str, dict[str, Any]] = {
    "vectors": {"target_modules": ["wte"]},
    "head": {"target_modules": ["lm_head"]},
    "vectors with magnitudes": {"target_modules": ["wte"], "use_dora": True},
    "both": {"target_modules": ["wte", "lm_head"]},
    "both alike": {"target_modules": ["wte"], "ensure_weight_tying": True},
    "vectors replaced": {"target_modules": ["c_attn"], "modules_to_save": ["wte"]},
    "head replaced": {"target_modules": ["c_attn"], "modules_to_save": ["lm_head"]},
    "some vectors replaced": {"target_modules": ["c_attn"], "trainable_token_indices": [3, 29, 30, 49]},
    "head, some vectors": {"target_modules": ["lm_head"], "trainable_token_indices": {"wte": [3, 29, 30, 49]}},
}


@pytest.mark.parametrize("name", TIED)
def test_a_tied_head_parts_from_the_vectors_as_it_did_in_training(name: str, tmp_path: Path) -> None:
    base = make_base("gpt2", tmp_path / "base")
    expected = logits(make_adapter(base, tmp_path / "adapter", r=4, **TIED[name]), PROMPT)
    assert close(scores(base, tmp_path / "adapter"), expected)
    assert close(scores(base, tmp_path / "adapter", world=2), expected)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_merged_before_it_is_quantised(family: str, tmp_path: Path) -> None:
    base = make_base(family, tmp_path / "base")
    settings = {"llama": ["q_proj", "down_proj"], "gpt2": ["c_attn", "c_proj"]}
    model = merged(make_adapter(base, tmp_path / "adapter", r=4, target_modules=settings[family]))
    model.save_pretrained(tmp_path / "merged")
    got = scores(base, tmp_path / "adapter", quantize=Eetq())
    assert torch.equal(got, scores(tmp_path / "merged", None, quantize=Eetq()))
    assert not torch.equal(got, scores(base, None, quantize=Eetq()))


def test_rounded_once(tmp_path: Path) -> None:
    """An adapter in bfloat16 over weights in bfloat16: their sum is made in float32."""
    base = make_base("llama", tmp_path / "base")
    make_adapter(base, tmp_path / "adapter", r=4, target_modules=["q_proj"])
    for file in (base / "model.safetensors", tmp_path / "adapter" / "adapter_model.safetensors"):
        save_file({name: x.bfloat16() for name, x in load_file(file).items()}, file)
    own, plan = load_file(base / "model.safetensors"), adapter.read(tmp_path / "adapter", read_spec(base))
    of = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    name = "model.layers.0.self_attn.q_proj"
    down, up = (of[f"base_model.model.{name}.{which}.weight"].float() for which in ("lora_A", "lora_B"))
    got = Merged(Checkpoint(base), plan).read(f"{name}.weight", 0, [(8, 16), (24, 32)])
    expected = own[f"{name}.weight"].float() + 2 * up @ down
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, torch.cat([expected[8:16], expected[24:]]), rtol=1e-6, atol=1e-6)
    assert torch.equal(Checkpoint(base).read(f"{name}.weight"), own[f"{name}.weight"]), "the file stays as it was"

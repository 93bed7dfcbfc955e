"""Baichuan has no module in transformers: Llama's is the 7B models' reference, a few lines of torch the 13B's."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import normalize, silu

from tests.adapters import merged, write_adapter
from tests.families.harness import VOCABULARY, FamilyTests, generate
from tests.models import Steps, needs
from tgi_server.models.families import read_spec
from tgi_server.models.families.baichuan import HIDDEN_13B, VOCABULARY_2
from tgi_server.models.spec import ModelSpec

HIDDEN, INNER, HEADS, LAYERS = 96, 120, 6, 2
CONFIG = {
    "model_type": "baichuan", "vocab_size": VOCABULARY, "hidden_size": HIDDEN, "intermediate_size": INNER,
    "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "hidden_act": "silu", "rms_norm_eps": 1e-6,
    "eos_token_id": 1, "tie_word_embeddings": False,
    "auto_map": {"AutoConfig": "configuration_baichuan.BaichuanConfig"},
}  # fmt: skip


def write(directory: Path, tensors: dict[str, Tensor], **entries: Any) -> None:
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, directory / "model.safetensors")
    (directory / "config.json").write_text(json.dumps(CONFIG | entries))


def fused(model: Any) -> dict[str, Tensor]:
    """The weights of a Llama under Baichuan's names."""
    tensors = dict(model.state_dict())
    for layer in range(LAYERS):
        name = f"model.layers.{layer}.self_attn"
        parts = [tensors.pop(f"{name}.{which}_proj.weight") for which in "qkv"]
        tensors[f"{name}.W_pack.weight"] = torch.cat(parts)
        tensors[f"{name}.rotary_emb.inv_freq"] = torch.ones(4)  # published checkpoints have it
    return tensors


def modules(tensors: dict[str, Tensor]) -> torch.nn.Module:
    """Of these names, for PEFT, which sees no more of a model."""
    root = torch.nn.Module()
    for name, tensor in tensors.items():
        module, (*path, last) = root, name.split(".")
        for number, part in enumerate(path, 1):
            if part not in dict(module.named_children()):
                linear = number == len(path) and part.endswith(("W_pack", "_proj"))
                new = torch.nn.Linear(tensor.shape[-1], len(tensor), bias=False) if linear else torch.nn.Module()
                module.add_module(part, new)
            module = module.get_submodule(part)
        module.register_parameter(last, torch.nn.Parameter(tensor))
    return root


class BaichuanTests(FamilyTests):
    """`entries` are what tells the size in config.json."""

    entries: ClassVar[dict[str, Any]]

    @classmethod
    def tensors(cls) -> dict[str, Tensor]:
        return fused(cls.make())

    @classmethod
    def save(cls, directory: Path) -> None:
        write(directory, cls.tensors(), **cls.entries)

    def test_adapter(self, directory: Path, prompts: list[list[int]], tmp_path: Path) -> None:
        """On the fused matrices too, as those for Baichuan are."""
        own, place, together = [prompts[2]], tmp_path / "adapter", tmp_path / "merged"
        linear = ["W_pack", "o_proj", "gate_proj", "up_proj", "down_proj"]
        adapted = write_adapter(modules(self.tensors()), place, str(directory), target_modules=linear, r=4)
        together.mkdir()
        write(together, merged(adapted).state_dict(), **self.entries)
        expected = generate(together, own, needs(), new_tokens=2)
        for world in (1, 3):
            self.compare(generate(directory, own, needs(), world, new_tokens=2, adapter=place), expected)


class TestBaichuan7B(BaichuanTests):
    config = "LlamaConfig"
    numbers: ClassVar[dict[str, Any]] = {
        "hidden_size": HIDDEN, "intermediate_size": INNER, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS,
        "max_position_embeddings": 128,
    }  # fmt: skip

    entries: ClassVar[dict[str, Any]] = {"max_position_embeddings": 128}


class Baichuan13B(torch.nn.Module):
    """By its published definition: a key's score is lowered by its distance times the slope of the head."""

    def __init__(self) -> None:
        super().__init__()
        sizes = {"self_attn.W_pack": (3 * HIDDEN, HIDDEN), "self_attn.o_proj": (HIDDEN, HIDDEN)}
        sizes |= {"mlp.gate_proj": (INNER, HIDDEN), "mlp.up_proj": (INNER, HIDDEN), "mlp.down_proj": (HIDDEN, INNER)}
        self.weights: dict[str, Tensor] = {
            "model.embed_tokens": torch.randn(VOCABULARY, HIDDEN),
            "model.norm": torch.rand(HIDDEN) + 0.5,
        }
        self.weights["lm_head"] = torch.randn(VOCABULARY, HIDDEN) * 0.2
        for layer in range(LAYERS):
            self.weights |= {f"model.layers.{layer}.{n}": torch.randn(size) * 0.15 for n, size in sizes.items()}
            for norm in ("input_layernorm", "post_attention_layernorm"):
                self.weights[f"model.layers.{layer}.{norm}"] = torch.rand(HIDDEN) + 0.5

    def bfloat16(self) -> Baichuan13B:
        self.weights = {name: weight.bfloat16() for name, weight in self.weights.items()}
        return self

    def norm(self, x: Tensor, name: str) -> Tensor:
        deviation = (x.float().square().mean(-1, keepdim=True) + 1e-6).sqrt()
        normed: Tensor = (x.float() / deviation).to(x.dtype) * self.weights[name]
        return normed

    def attention(self, x: Tensor, name: str) -> Tensor:
        n = len(x)
        q, k, v = (x @ self.weights[f"{name}.W_pack"].T).view(n, 3, HEADS, -1).permute(1, 2, 0, 3)
        slopes = torch.tensor([2**-2, 2**-4, 2**-6, 2**-8, 2**-1, 2**-3])  # of six heads
        distance = torch.arange(n).unsqueeze(1) - torch.arange(n)
        bias = (-slopes.view(-1, 1, 1) * distance).masked_fill(distance < 0, -torch.inf)
        scores = (q @ k.transpose(1, 2)).float() * (HIDDEN // HEADS) ** -0.5 + bias
        attended: Tensor = scores.softmax(-1).to(x.dtype) @ v
        output: Tensor = attended.transpose(0, 1).reshape(n, HIDDEN) @ self.weights[f"{name}.o_proj"].T
        return output

    def forward(self, ids: Tensor, use_cache: bool = False) -> Any:
        w = self.weights
        x = w["model.embed_tokens"][ids[0]]
        for layer in range(LAYERS):
            name = f"model.layers.{layer}"
            x = x + self.attention(self.norm(x, f"{name}.input_layernorm"), f"{name}.self_attn")
            y = self.norm(x, f"{name}.post_attention_layernorm")
            inner = silu(y @ w[f"{name}.mlp.gate_proj"].T) * (y @ w[f"{name}.mlp.up_proj"].T)
            x = x + inner @ w[f"{name}.mlp.down_proj"].T
        return SimpleNamespace(logits=(self.norm(x, "model.norm") @ w["lm_head"].T).unsqueeze(0))


class TestBaichuan13B(BaichuanTests):
    """Six heads: their slopes are of two series."""

    config = "baichuan"
    shards = (2, 3, 4)
    entries: ClassVar[dict[str, Any]] = {"model_max_length": 128}

    @classmethod
    def make(cls) -> Any:
        torch.manual_seed(0)
        return Baichuan13B()

    @classmethod
    def tensors(cls) -> dict[str, Tensor]:
        return {f"{name}.weight": weight for name, weight in cls.make().weights.items()}

    def test_long_distances(self, directory: Path) -> None:
        """Beyond what it was trained for too."""
        prompt = torch.randint(2, VOCABULARY, (700,), generator=torch.Generator().manual_seed(1))
        expected = self.make()(prompt.unsqueeze(0)).logits[0]
        for plain in (False, True):
            (got,) = Steps(directory, [prompt.tolist()], needs(plain=plain), longest=704).logits([0], [700])
            assert (got - expected).abs().max() <= 1e-4 * expected.abs().max()


@pytest.mark.parametrize("world", [1, 3])
def test_a_head_of_directions(tmp_path: Path, world: int) -> None:
    """What distinguishes the second version is the size of its vocabulary. Rows are of very different lengths."""
    model = TestBaichuan7B.make()
    torch.manual_seed(0)
    head = torch.randn(VOCABULARY_2, HIDDEN) * torch.logspace(-3, 3, VOCABULARY_2).unsqueeze(1)
    vectors = torch.randn(VOCABULARY_2, HIDDEN)
    vectors[:VOCABULARY] = model.model.embed_tokens.weight.detach()
    tensors = fused(model) | {"lm_head.weight": head, "model.embed_tokens.weight": vectors}
    write(tmp_path, tensors, max_position_embeddings=128, vocab_size=VOCABULARY_2)
    prompt = [5, 80, 33, 12]
    model.lm_head.weight.data = normalize(head)
    with torch.no_grad():
        expected = model(torch.tensor([prompt])).logits[0, -1]
    (tokens,), (scores,) = generate(tmp_path, [prompt], needs(), world, new_tokens=1)
    assert tokens == [expected.argmax()]
    assert (scores[0] - expected).abs().max() <= 1e-4 * expected.abs().max()


def test_the_published_models_are_told_apart(tmp_path: Path) -> None:
    sizes = {"7b": 4096, "13b": HIDDEN_13B}
    for name, vocabulary, lengths in (
        ("7b", 64000, {"max_position_embeddings": 4096}),
        ("7b", VOCABULARY_2, {"max_position_embeddings": 4096, "model_max_length": 4096}),
        ("13b", 64000, {"model_max_length": 4096}),
        ("13b", VOCABULARY_2, {"model_max_length": 4096}),
        ("13b", VOCABULARY_2, {"model_max_length": 4096, "max_position_embeddings": 4096}),
    ):
        entries = CONFIG | {"hidden_size": sizes[name], "num_attention_heads": sizes[name] // 128}
        (tmp_path / "config.json").write_text(json.dumps(entries | {"vocab_size": vocabulary, **lengths}))
        spec = read_spec(tmp_path)
        assert isinstance(spec, ModelSpec)
        attention = spec.blocks[0].attention
        assert (attention.rope is None, attention.slopes is not None) == (name == "13b",) * 2
        assert spec.head.by_direction == (vocabulary == VOCABULARY_2)
        assert spec.max_positions == (4096 if name == "7b" else None)

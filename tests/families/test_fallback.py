"""Models of no family: transformers' own module over our paged cache gives the scores and texts that it gives alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from tests.adapters import logits, make_adapter, make_base, merged
from tests.families.harness import ROUNDING, TOLERANCE, VOCABULARY, Generated, Reference, generate
from tests.models import Steps, needs
from tgi_server.errors import ModelError
from tgi_server.models.check import reader_of
from tgi_server.models.fallback.model import FallbackModel
from tgi_server.models.fallback.probe import describe
from tgi_server.models.fallback.spec import FallbackSpec, parsed
from tgi_server.models.families import families
from tgi_server.models.load import load_model
from tgi_server.quantize.eetq import Eetq
from tgi_server.quantize.gptq import Gptq

USUAL = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16,
}  # fmt: skip
WINDOWS = {**USUAL, "num_hidden_layers": 4, "sliding_window": 12, "sliding_window_pattern": 2}
LATENT = {
    **USUAL, "num_key_value_heads": 4, "q_lora_rank": 24, "kv_lora_rank": 16, "qk_rope_head_dim": 16,
    "qk_nope_head_dim": 16, "v_head_dim": 16,
}  # fmt: skip
EXPERTS = {"moe_intermediate_size": 32, "num_experts_per_tok": 2}


def read(directory: Path) -> FallbackSpec:
    """As the shard gets it: described in another process, told as text."""
    return parsed(describe(directory, trust=False).text, directory)


class FallbackTests(Reference):
    """Subclasses say as those of `Reference`, and what is to be kept.

    Attributes:
        kept: windows of the layers' groups, in the order of the layers.
        ours: whether a family serves it, and the module is forced.
    """

    kept: ClassVar[tuple[int | None, ...]] = (None,)
    ours: ClassVar[bool] = False

    def test_scores_and_texts(self, directory: Path, prompts: list[list[int]], expected: Generated) -> None:
        spec = read(directory)
        assert tuple(group.window for group in spec.groups) == self.kept
        assert (json.loads((directory / "config.json").read_text())["model_type"] in families()) is self.ours
        self.compare(generate(directory, prompts, needs(), recorded=False, read=lambda _: spec), expected)

    def test_chunks_of_prompts(self, directory: Path, prompts: list[list[int]], expected: Generated) -> None:
        got = generate(directory, prompts, needs(plain=True), recorded=False, chunk=16, read=read)
        self.compare(got, expected)


class TestCohere2(FallbackTests):
    """A window in every other layer, positions in those only, scaled scores, layers side by side."""

    config = "Cohere2Config"
    numbers: ClassVar = {**WINDOWS, "logit_scale": 0.25}
    kept = (12, None)

    def test_bfloat16(self, directory: Path, prompts: list[list[int]], expected: Generated) -> None:
        _, scores = generate(directory, prompts, needs(dtype=torch.bfloat16), recorded=False, read=read)
        for got, right in zip(scores, expected[1], strict=True):
            assert (got[0] - right[0]).norm() <= ROUNDING * right[0].norm()

    def test_8_bit_weights(self, directory: Path, prompts: list[list[int]], expected: Generated) -> None:
        """Half of a step of 255 is what a weight loses; the head loses nothing."""
        steps = Steps(directory, prompts[:1], needs(), read=read)
        exact = steps.logits([0], [len(prompts[0])])[0]
        steps = Steps(directory, prompts[:1], needs(), read=read, quantize=Eetq())
        rounded = steps.logits([0], [len(prompts[0])])[0]
        assert 0 < (rounded - exact).norm() <= ROUNDING * exact.norm()

    def test_a_cached_prefix_is_computed_once(self, directory: Path, prompts: list[list[int]]) -> None:
        """What one request left in shared blocks serves the next, whose own part is computed over it."""
        first = prompts[0]
        other = [*first[:32], 7, 8, 9]
        alone = Steps(directory, [other], needs(), read=read).logits([0], [len(other)])[0]
        steps = Steps(directory, [first, other], needs(), read=read, shared=2)
        steps.hidden([0], [len(first)])
        assert torch.allclose(steps.logits([1], [3])[0], alone[-3:], atol=1e-5 * float(alone.abs().max()))


class TestStableLm(FallbackTests):
    """Layer norms, a quarter of each head turns."""

    config = "StableLmConfig"
    numbers: ClassVar = {**USUAL, "use_qkv_bias": True}


class TestGlm4(FallbackTests):
    """Norms after, pairs of neighbours turn, gate and up in one layer."""

    config = "Glm4Config"
    numbers: ClassVar = {**USUAL, "attention_bias": True}


class TestNemotron(FallbackTests):
    """Squared activations, layer norms with weights around 0."""

    config = "NemotronConfig"
    numbers: ClassVar = USUAL


class TestDeepseekV3(FallbackTests):
    """Keys wider than values, of latent vectors; groups of experts, the first layer dense."""

    config = "DeepseekV3Config"
    numbers: ClassVar = {
        **LATENT, **EXPERTS, "n_routed_experts": 8, "n_group": 2, "topk_group": 1, "first_k_dense_replace": 1,
    }  # fmt: skip


class TestExaone4(FallbackTests):
    """Norms after, norms of queries and keys, no positions in the layers without a window."""

    config = "Exaone4Config"
    numbers: ClassVar = WINDOWS
    kept = (12, None)


class TestHunyuan(FallbackTests):
    """Norms of queries and keys after they turned."""

    config = "HunYuanDenseV1Config"
    numbers: ClassVar = USUAL


class TestApertus(FallbackTests):
    """An activation with numbers of its own, which the checkpoint has as scalars."""

    config = "ApertusConfig"
    numbers: ClassVar = {k: v for k, v in USUAL.items() if k != "head_dim"}


class TestLlama4(FallbackTests):
    """Chunks of attention, which cannot be told from all of it in a text of one chunk; a layer without positions."""

    config = "Llama4TextConfig"
    numbers: ClassVar = {
        **USUAL, "num_hidden_layers": 4, "intermediate_size_mlp": 96, "num_local_experts": 4, "num_experts_per_tok": 1,
        "attention_chunk_size": 96, "no_rope_layers": [1, 1, 1, 0],
    }  # fmt: skip


class TestErnie(FallbackTests):
    """Pairs of neighbours turn, a tied head."""

    config = "Ernie4_5Config"
    numbers: ClassVar = USUAL


class TestGemma2(FallbackTests):
    """Bounded scores of attention and of tokens, from keyword arguments and behind the head."""

    config = "Gemma2Config"
    numbers: ClassVar = {
        **USUAL, "sliding_window": 12, "attn_logit_softcapping": 4.0, "final_logit_softcapping": 5.0,
        "query_pre_attn_scalar": 32,
    }  # fmt: skip
    kept = (12, None)
    ours = True


class TestGranite(FallbackTests):
    """Four multipliers, one of them behind the head."""

    config = "GraniteConfig"
    numbers: ClassVar = {
        **{k: v for k, v in USUAL.items() if k != "head_dim"}, "logits_scaling": 3.0, "embedding_multiplier": 2.0,
        "attention_multiplier": 0.2, "residual_multiplier": 0.5,
    }  # fmt: skip
    ours = True


class TestGptOss(FallbackTests):
    """Sinks from keyword arguments, a window in every other layer, experts."""

    config = "GptOssConfig"
    numbers: ClassVar = {
        **USUAL, "intermediate_size": 32, "sliding_window": 12, "num_local_experts": 4, "num_experts_per_tok": 2,
    }  # fmt: skip
    kept = (12, None)
    ours = "gpt_oss" in families()


def written(directory: Path, kind: str, **entries: Any) -> Path:
    """A directory with nothing but a config.json."""
    config = {**USUAL, "vocab_size": VOCABULARY, "model_type": kind, **entries}
    (directory / "config.json").write_text(json.dumps(config))
    return directory


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "bert": ({}, "its masks let tokens see what follows them"),
    "bart": ({}, "it has an encoder beside its decoder"),
    "mamba2": ({"num_heads": 8}, "layer_types has 'linear_attention', layers with a state"),
    "falcon_h1": ({}, "layer_types has 'hybrid', layers with a state"),
    "lfm2": ({"layer_types": ["conv", "full_attention"]}, "layer_types has 'conv'"),
    "granitemoehybrid": ({"layer_types": ["mamba", "attention"]}, "layer_types has 'linear_attention'"),
    "qwen3_next": ({"num_hidden_layers": 4}, "layer_types has 'linear_attention'"),
    "gpt_neo": ({"attention_types": [[["global"], 2]], "num_layers": 2}, "its layers do not call"),
    "codegen": ({}, "transformers' module for it does not run with attention over a paged cache"),
    "rwkv": ({"attention_hidden_size": 64}, "takes no positions"),
    "diffllama": ({}, "layer 0 attends more than once"),
    "vit": ({}, "'vit' has no model in transformers that continues text"),
    "stablelm": ({"hidden_size": "large"}, "transformers cannot read it"),
    "glm4": (
        {"architectures": ["Glm4ForSequenceClassification"]},
        "does not continue text; Glm4ForCausalLM does",
    ),
    "strange": ({}, r"known neither here nor to transformers 5\.\d+\.\d+; served are .*llama.* and most decoders"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_kept_is_refused_in_one_line(tmp_path: Path, kind: str) -> None:
    entries, message = REFUSED[kind]
    with pytest.raises(ModelError, match=message) as caught:
        describe(written(tmp_path, kind, **entries), trust=True)
    assert "\n" not in str(caught.value) and str(tmp_path / "config.json") in str(caught.value)


@pytest.mark.parametrize(("rope", "longest"), [
    ({"rope_type": "dynamic", "factor": 2.0}, 64),
    ({"rope_type": "longrope", "short_factor": [1.0] * 8, "long_factor": [2.0] * 8,
      "original_max_position_embeddings": 32}, 32),
    ({"rope_type": "linear", "factor": 2.0}, 64),
])  # fmt: skip
def test_texts_end_where_positions_would_change(tmp_path: Path, rope: dict[str, Any], longest: int) -> None:
    parameters = {"rope_theta": 10000.0, "partial_rotary_factor": 1.0, **rope}
    written(tmp_path, "stablelm", max_position_embeddings=64, rope_parameters=parameters)
    assert describe(tmp_path, trust=False).max_positions == longest


def test_texts_end_with_a_chunk_of_attention(tmp_path: Path) -> None:
    """Its borders are in masks only, which our attention does not get."""
    written(tmp_path, "llama4_text", attention_chunk_size=48, intermediate_size_mlp=96, num_local_experts=2)
    assert describe(tmp_path, trust=False).max_positions == 48


def test_tensors_that_are_missing_or_misshaped_are_named(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    class Made(Reference):
        config, numbers = "StableLmConfig", USUAL

    Made.make().save_pretrained(tmp_path)
    tensors: dict[str, Tensor] = load_file(tmp_path / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    tensors["model.norm.weight"] = torch.ones(3)
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError) as caught:
        load_model(tmp_path, read(tmp_path), needs(), 64)
    assert str(caught.value) == (
        "the checkpoint is not as its config.json says: tensor model.layers.1.mlp.up_proj.weight is missing; "
        "tensor model.norm.weight has the shape [3], [64] was expected"
    )


def test_methods_that_need_a_quantised_checkpoint_are_refused(tmp_path: Path) -> None:
    class Made(Reference):
        config, numbers = "StableLmConfig", USUAL

    Made.make().save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="of models of this type only weights that are not quantised are served"):
        reader_of(tmp_path, read(tmp_path), Gptq(bits=4, group_size=32))


def test_layers_that_mix_tokens_elsewhere_are_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever its configuration says: with numbers, tokens in company are not what they are alone."""
    from transformers.models.stablelm import modeling_stablelm

    class Made(Reference):
        config, numbers = "StableLmConfig", USUAL

    Made.make().save_pretrained(tmp_path)
    spec, forward = read(tmp_path), modeling_stablelm.StableLmMLP.forward
    monkeypatch.setattr(modeling_stablelm.StableLmMLP, "forward", lambda self, x: forward(self, x + x.roll(1, dims=1)))
    with pytest.raises(ModelError, match="mix tokens, or count positions, elsewhere than in attention"):
        load_model(tmp_path, spec, needs(), 64)


def test_products_are_joined_and_none_is_left(tmp_path: Path) -> None:
    class Made(Reference):
        config, numbers = (
            "Qwen2MoeConfig",
            {**USUAL, **EXPERTS, "num_experts": 4, "shared_expert_intermediate_size": 32},
        )

    Made.make().save_pretrained(tmp_path)
    model = load_model(tmp_path, read(tmp_path), needs(), 64)
    assert isinstance(model, FallbackModel)
    left = [name for name, part in model._module.named_modules() if type(part) is torch.nn.Linear]
    assert left == []
    assert {choice.operation for choice in model.choices} >= {"attention", "rotate_store", "linear", "head", "add_norm"}
    assert model.recorder is None


def test_an_adapter_is_merged(tmp_path: Path) -> None:
    """As into a family, by the names that the checkpoint's tensors have."""
    base = make_base("llama", tmp_path / "base")
    changed = make_adapter(base, tmp_path / "adapter", target_modules=["q_proj", "down_proj"], r=4)
    expected = logits(merged(changed), [3, 1, 4, 1, 5])
    steps = Steps(base, [[3, 1, 4, 1, 5]], needs(), read=read, adapter_dir=tmp_path / "adapter")
    got = steps.logits([0], [5])[0]
    assert (got - expected).abs().max() <= TOLERANCE * expected.abs().max()

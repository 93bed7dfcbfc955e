"""Every kind of rotary positions against transformers, inside and beyond the original length."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.models import Steps, needs
from tgi_server.config.schema import RopeOptions, RopeScaling

IDS = torch.randint(0, 101, (90,), generator=torch.Generator().manual_seed(3)).tolist()
SHORT = [1.0, 1.1, 1.3, 1.5, 1.8, 2.0, 2.1, 2.4]
LONG = [1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]
ORIGINAL = 32
KINDS: dict[str, dict[str, Any]] = {
    "default": {},
    "linear": {"factor": 3.0},
    "dynamic": {"factor": 2.5},
    "yarn": {"factor": 4.0},
    "yarn-all": {
        "factor": 4.0, "attention_factor": 1.2, "beta_fast": 8.0, "beta_slow": 2.0,
        "original_max_position_embeddings": ORIGINAL,
    },
    "yarn-mscale": {"factor": 3.0, "mscale": 0.8, "mscale_all_dim": 1.1, "original_max_position_embeddings": ORIGINAL},
    "llama3": {
        "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": ORIGINAL,
    },
    "longrope": {
        "short_factor": SHORT, "long_factor": LONG, "factor": 3.0, "original_max_position_embeddings": ORIGINAL,
    },
    "proportional": {"partial_rotary_factor": 0.5},
    "partial": {"partial_rotary_factor": 0.5},
}  # fmt: skip


def make(directory: Path, kind: str, **changes: Any) -> Any:
    """A small model of that kind, saved; Phi 3 where only a part of a head turns."""
    import transformers

    name = {"partial": "default"}.get(kind, kind.partition("-")[0])
    parameters = {"rope_type": name, "rope_theta": 100.0, **KINDS[kind], **changes}
    config = transformers.LlamaConfig(
        vocab_size=101, hidden_size=64, intermediate_size=72, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16, max_position_embeddings=ORIGINAL, initializer_range=0.3,
        rope_parameters=parameters,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(config).eval()
    model.save_pretrained(directory)
    return model


def expected(model: Any, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = model(torch.tensor([ids]), use_cache=False).logits[0]
    return logits


@pytest.mark.parametrize("length", [20, 90], ids=["inside", "beyond"])
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "partial"])
def test_prompts(tmp_path: Path, kind: str, length: int) -> None:
    """Whole and in chunks."""
    model = make(tmp_path, kind)
    right = expected(model, IDS[:length])
    for plain in (False, True):
        steps = Steps(tmp_path, [IDS[:length]] * 2, needs(plain), 96)
        whole = steps.logits([0], [length])[0]
        chunks = torch.cat([steps.logits([1], [n])[0] for n in (7, 1, length - 8)])
        for got in (whole, chunks):
            assert (got - right).abs().max() <= 1e-4 * right.abs().max()


@pytest.mark.parametrize("kind", ["dynamic", "linear", "longrope"])
def test_answers_in_mixed_company(tmp_path: Path, kind: str) -> None:
    """Each token turns as in transformers with a cache, whatever else is in the batch."""
    model = make(tmp_path, kind)
    prompts, answers = [IDS[:60], IDS[5:25], IDS[10:50]], [IDS[60:67], IDS[25:32], IDS[50:57]]
    steps = Steps(tmp_path, prompts, needs(), 96, answers=answers)
    got = [[part] for part in steps.logits([0, 1, 2], [60, 20, 40])]
    for _ in range(6):
        for i, part in enumerate(steps.logits([0, 1, 2], [1, 1, 1])):
            got[i].append(part)
    for i, prompt in enumerate(prompts):
        with torch.no_grad():
            answer = model(torch.tensor([prompt]), use_cache=True)
            rows = [answer.logits[0]]
            for token in answers[i][:6]:
                answer = model(torch.tensor([[token]]), past_key_values=answer.past_key_values, use_cache=True)
                rows.append(answer.logits[0])
        right = torch.cat(rows)
        assert (torch.cat(got[i]) - right).abs().max() <= 1e-4 * right.abs().max(), i


def test_a_text_that_may_get_long_turns_by_the_long_factors(tmp_path: Path) -> None:
    """Its tokens are then those of transformers for the long text, from the first on."""
    model = make(tmp_path, "longrope")
    steps = Steps(tmp_path, [IDS[:90]], needs(), 96)
    got = torch.cat([steps.logits([0], [n])[0] for n in (20, 20, 50)])
    right = expected(model, IDS[:90])
    assert (got - right).abs().max() <= 1e-4 * right.abs().max()


@pytest.mark.parametrize(("scaling", "factor"), [(RopeScaling.linear, 3.0), (RopeScaling.dynamic, 2.0), (None, 4.0)])
def test_the_options_overrule_the_checkpoint(tmp_path: Path, scaling: RopeScaling | None, factor: float) -> None:
    """A checkpoint with a scaling of its own, and the same weights with the scaling that the options name."""
    mine, theirs = tmp_path / "mine", tmp_path / "theirs"
    make(mine, "llama3")
    kind = "linear" if scaling is None else scaling.value
    model = make(theirs, kind, factor=factor)
    steps = Steps(mine, [IDS[:60]], needs(), 96, RopeOptions(rope_scaling=scaling, rope_factor=factor))
    right = expected(model, IDS[:60])
    assert (steps.logits([0], [60])[0] - right).abs().max() <= 1e-4 * right.abs().max()


def test_a_part_of_a_head_turns(tmp_path: Path) -> None:
    """Against the definition, as no served family has it yet: the other numbers stay as they are."""
    from tgi_server.kernels.attention import LayerCache
    from tgi_server.kernels.operations import Angles, rotate_store
    from tgi_server.rope import kinds

    rope = kinds.read({"rope_theta": 100.0, "partial_rotary_factor": 0.5, "max_position_embeddings": 64}, 16)
    assert rope.turned == 8
    angles = torch.arange(5.0).unsqueeze(1) * rope.frequencies()
    cache = LayerCache(torch.zeros(1, 1, 16, 16), torch.zeros(1, 1, 16, 16))
    qkv = torch.randn(5, 3 * 16)
    query, _, _ = rotate_store(qkv, Angles(angles.cos(), angles.sin()), torch.arange(5), cache, 1)
    assert torch.equal(query[:, 0, 8:], qkv[:, 8:16])
    turned = torch.view_as_complex(torch.stack((qkv[:, :4], qkv[:, 4:8]), -1)) * torch.polar(torch.ones(5, 4), angles)
    assert torch.allclose(query[:, 0, :8], torch.cat((turned.real, turned.imag), -1), atol=1e-6)

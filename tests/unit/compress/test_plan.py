"""Which layers are quantised together, and what is refused in a line."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.compress.random_models import write
from tgi_server.compress import options as own
from tgi_server.compress import plan
from tgi_server.compress.options import Method, QuantizeOptions
from tgi_server.compress.plan import Channels
from tgi_server.models.config import ModelConfig
from tgi_server.models.families import families
from tgi_server.models.spec import NormSpec


@pytest.mark.parametrize(("family", "expected"), [
    ("llama", [["q_proj", "k_proj", "v_proj"], ["o_proj"], ["gate_proj", "up_proj"], ["down_proj"]]),
    ("phi", [["q_proj", "k_proj", "v_proj", "fc1"], ["dense"], ["fc2"]]),
    ("gpt_neox", [["query_key_value"], ["dense"], ["dense_h_to_4h"], ["dense_4h_to_h"]]),
    ("gpt2", [["c_attn"], ["c_proj"], ["c_fc"], ["c_proj"]]),
])  # fmt: skip
def test_sites(family: str, expected: list[list[str]], tmp_path: Path) -> None:
    spec = write(tmp_path, family)
    found = plan.sites(spec.blocks[0], spec.hidden_size)
    assert [[layer.name.rpartition(".")[2] for layer in site.layers] for site in found] == expected
    shapes = dict(spec.tensors())
    for site in found:
        for layer in site.layers:
            shape = (layer.inputs, layer.outputs) if layer.transposed else (layer.outputs, layer.inputs)
            assert shapes[f"{layer.name}.weight"] == shape


def test_where_factors_can_go(tmp_path: Path) -> None:
    llama = plan.sites(write(tmp_path, "llama").blocks[0], 64)
    assert [type(site.before) for site in llama] == [NormSpec, Channels, NormSpec, Channels]
    neox = plan.sites(write(tmp_path, "gpt_neox").blocks[0], 64)
    assert neox[3].before is None  # a GELU lies between


@pytest.mark.parametrize(("given", "words"), [
    ({}, ["job.out=DIRECTORY"]),
    ({"bits": 5}, ["bits", "2, 3, 4 or 8"]),
    ({"method": Method.awq, "bits": 3}, ["bits", "awq works with 4 bits"]),
    ({"group_size": 48}, ["group_size", "32, 64, 128 or -1"]),
    ({"method": Method.awq, "act_order": False}, ["act_order", "only method=gptq"]),
    ({"method": Method.awq, "symmetric": False}, ["symmetric", "only method=gptq"]),
])  # fmt: skip
def test_options_alone(given: dict[str, object], words: list[str]) -> None:
    told = [f"{name} {reason}" for name, _, reason in own.problems(QuantizeOptions(**given))]  # type: ignore[arg-type]
    assert any(all(word in line for word in words) for line in told)


def test_options_that_are_right() -> None:
    for method, bits in own.BITS.items():
        for number in bits:
            assert not [*own.problems(QuantizeOptions(out="x", method=Method(method), bits=number))]


def test_groups_that_do_not_fit_name_those_that_do(tmp_path: Path) -> None:
    spec = write(tmp_path, "llama")  # inputs of 64 and 96
    ((name, value, reason),) = plan.problems(spec, QuantizeOptions(group_size=64, sample_tokens=16))
    assert (name, value) == ("group_size", 64)
    assert "down_proj has 96 inputs" in reason and reason.endswith("32 and -1 work")
    assert not [*plan.problems(spec, QuantizeOptions(group_size=32, sample_tokens=64))]


def test_samples_longer_than_the_model_reads(tmp_path: Path) -> None:
    ((name, _, reason),) = plan.problems(write(tmp_path, "llama"), QuantizeOptions(group_size=32, sample_tokens=65))
    assert name == "sample_tokens" and "64 works" in reason


def test_models_that_are_not_quantised() -> None:
    mixture = {
        "model_type": "mixtral", "vocab_size": 50, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 1,
        "num_attention_heads": 4, "num_key_value_heads": 2, "num_local_experts": 4, "num_experts_per_tok": 2,
        "max_position_embeddings": 64,
    }  # fmt: skip
    assert "experts" in (plan.unfit(families()["mixtral"](ModelConfig(mixture))) or "")
    mamba = {"model_type": "mamba", "vocab_size": 50, "hidden_size": 64, "num_hidden_layers": 1, "state_size": 8}
    assert "decoders" in (plan.unfit(families()["mamba"](ModelConfig(mamba))) or "")

"""An adapter as model_id, here or on the hub: its base model is found, fetched and checked like any other."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests import gguf_files
from tests.adapters import logits, make_adapter, make_base
from tests.hub_server import COMMIT, Hub, Repository, running
from tests.integration.server import Server
from tests.models import Steps, needs
from tests.vocabularies import train_pieces
from tgi_server.config.schema import DType, ModelOptions, ServerConfig
from tgi_server.errors import ConfigError, ModelError
from tgi_server.launcher import weights
from tgi_server.launcher.origin import Model
from tgi_server.models import adapter
from tgi_server.models.check import check_memory
from tgi_server.models.families import read_spec
from tgi_server.models.files import headers
from tgi_server.models.tensors import found
from tgi_server.quantize.none import NoQuantize

OTHER_COMMIT = "e" * 40
PROMPT = [3, 17, 25, 9, 40, 3, 3, 41]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, torch.Tensor]:
    """A directory with `base` and `adapter`, and the scores of PEFT's model for the prompt."""
    place = tmp_path_factory.mktemp("made")
    base = make_base("llama", place / "base")
    (base / "tokenizer.json").write_text('"of the base"')
    (base / "chat_template.jinja").write_text("of the base")
    model = make_adapter(base, place / "adapter", r=4, target_modules=["q_proj", "up_proj"])
    return place, logits(model, PROMPT)


@pytest.fixture
def place(made: tuple[Path, torch.Tensor], tmp_path: Path) -> Path:
    """A copy, where the adapter names its base by a path of its own."""
    shutil.copytree(made[0], tmp_path / "made ☃")
    change(tmp_path / "made ☃" / "adapter", base_model_name_or_path="../base")
    return tmp_path / "made ☃"


def change(directory: Path, **entries: Any) -> None:
    path = directory / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


def fetch(model_id: str | Path, tmp_path: Path, **options: Any) -> Model:
    cache = {"huggingface_hub_cache": str(tmp_path / "hub"), "conversion_cache": str(tmp_path / "cache")}
    given = ModelOptions(model_id=str(model_id), **{**cache, **options})
    return weights.fetch(given, DType.float32, lambda stage, fraction: None)


def served(model: Model) -> torch.Tensor:
    return Steps(model.directory, [PROMPT], needs(), adapter_dir=model.adapter).logits([0], [len(PROMPT)])[0]


def test_beside_its_base_or_by_a_whole_path(place: Path, made: tuple[Path, torch.Tensor], tmp_path: Path) -> None:
    model = fetch(place / "adapter", tmp_path)
    assert (model.directory.resolve(), model.adapter) == (place / "base", place / "adapter")
    torch.testing.assert_close(served(model), made[1], rtol=1e-4, atol=1e-4)
    change(place / "adapter", base_model_name_or_path=str(place / "base"), revision="of the hub's")
    assert fetch(place / "adapter", tmp_path).directory == place / "base"
    assert not (tmp_path / "cache").exists()


def test_a_tokenizer_of_its_own(place: Path, tmp_path: Path) -> None:
    (place / "adapter" / "tokenizer.json").write_text('"of the adapter"')
    (place / "adapter" / "tokenizer_config.json").write_text("{}")
    directory = fetch(place / "adapter", tmp_path).directory
    assert {path.name: path.resolve().parent.name for path in directory.iterdir()} == {
        "config.json": "base", "generation_config.json": "base", "model.safetensors": "base",
        "tokenizer.json": "adapter", "tokenizer_config.json": "adapter",
    }  # fmt: skip


def test_pickles_are_converted(place: Path, made: tuple[Path, torch.Tensor], tmp_path: Path) -> None:
    for name, old in (("adapter/adapter_model", "adapter/adapter_model"), ("base/model", "base/pytorch_model")):
        torch.save(load_file(place / f"{name}.safetensors"), place / f"{old}.bin")
        (place / f"{name}.safetensors").unlink()
    model = fetch(place / "adapter", tmp_path)
    torch.testing.assert_close(served(model), made[1], rtol=1e-4, atol=1e-4)
    assert fetch(place / "adapter", tmp_path) == model


def test_over_a_gguf_file(tmp_path: Path) -> None:
    file = gguf_files.write(tmp_path / "base.gguf", gguf_files.random_weights())
    converted = fetch(file, tmp_path).directory
    model = make_adapter(converted, tmp_path / "adapter", r=4, target_modules=["q_proj", "k_proj", "embed_tokens"])
    change(tmp_path / "adapter", base_model_name_or_path="../base.gguf")
    model_found = fetch(tmp_path / "adapter", tmp_path)
    assert model_found.directory == converted
    torch.testing.assert_close(served(model_found), logits(model, PROMPT), rtol=1e-4, atol=1e-4)


def test_the_memory_of_a_head_that_is_tied_no_more(tmp_path: Path) -> None:
    base = make_base("gpt2", tmp_path / "base")
    make_adapter(base, tmp_path / "adapter", r=4, target_modules=["wte"])
    changes, files = adapter.read(tmp_path / "adapter", read_spec(base)), headers(base)
    names = [found(name, changes.spec.prefixes, changes.tensors(files)) for name, _ in changes.spec.tensors()]
    assert "lm_head.weight" in names
    assert None not in names
    assert changes.tensors(files)["lm_head.weight"].bytes == files["transformer.wte.weight"].bytes
    config, spec = ServerConfig(max_input_length=8, max_total_tokens=16), changes.spec
    enough = sum(info.bytes for info in changes.tensors(files).values()) + spec.block_bytes(0, 1, 4)
    check_memory(spec, config, changes.tensors(files), DType.float32, NoQuantize(), enough)
    with pytest.raises(ConfigError, match="does not fit in the free memory"):
        check_memory(spec, config, changes.tensors(files), DType.float32, NoQuantize(), enough - 1)


@pytest.fixture
def hub(place: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_API_TOKEN", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    with running() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        base = {path.name: path.read_bytes() for path in (place / "base").iterdir()}
        server.repositories["org/base"] = Repository(
            {COMMIT: base, OTHER_COMMIT: {}}, {"main": OTHER_COMMIT, "v1": COMMIT}
        )
        change(place / "adapter", base_model_name_or_path="org/base", revision="v1")
        publish(server, place / "adapter")
        yield server


def publish(hub: Hub, directory: Path) -> None:
    files = {path.name: path.read_bytes() for path in directory.iterdir()}
    hub.repositories["org/adapter"] = Repository({COMMIT: files}, pipeline_tag="text-generation")


def test_both_from_the_hub(
    hub: Hub, place: Path, made: tuple[Path, torch.Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = fetch("org/adapter", tmp_path)
    assert (model.sha, model.pipeline_tag) == (COMMIT, "text-generation")
    torch.testing.assert_close(served(model), made[1], rtol=1e-4, atol=1e-4)
    hub.requests.clear()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert fetch("org/adapter", tmp_path) == model
    assert fetch(place / "adapter", tmp_path).directory == model.directory, "an adapter here, its base from the cache"
    assert hub.requests == []
    change(place / "adapter", revision="v2")
    with pytest.raises(
        ModelError, match=r"^the base model of the adapter .*: model_id=org/base: no such directory, and the hub"
    ):
        fetch(place / "adapter", tmp_path)


def test_what_does_not_fit_is_told_before_the_base_is_downloaded(hub: Hub, place: Path, tmp_path: Path) -> None:
    change(place / "adapter", use_qalora=True)
    publish(hub, place / "adapter")
    with pytest.raises(ModelError, match=r"adapter_config\.json: use_qalora=true is not served"):
        fetch("org/adapter", tmp_path)
    assert hub.asked_for("GET", "/adapter_model.safetensors") == 0
    change(place / "adapter", use_qalora=False, r=5)
    publish(hub, place / "adapter")
    shutil.rmtree(tmp_path / "hub")
    with pytest.raises(ModelError, match=r"are no matrices of the rank 5"):
        fetch("org/adapter", tmp_path)
    assert hub.asked_for("GET", "/model.safetensors") == 0


def test_a_quantised_base_is_refused_before_it_is_downloaded(hub: Hub, tmp_path: Path) -> None:
    files = hub.repositories["org/base"].commits[COMMIT]
    settings = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
    files["config.json"] = json.dumps(json.loads(files["config.json"]) | {"quantization_config": settings}).encode()
    with pytest.raises(ModelError, match="the adapter org/adapter: it is quantised already by bitsandbytes"):
        fetch("org/adapter", tmp_path)
    assert hub.asked_for("GET", "/model.safetensors") == 0


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "another kind": ({"peft_type": "IA3"}, r"peft_type=IA3 is not served; LORA is$"),
    "another task": ({"task_type": "SEQ_CLS"}, r"task_type=SEQ_CLS is not served; CAUSAL_LM and SEQ_2_SEQ_LM are$"),
    "unheard of": ({"use_magic": {"strength": 3}}, r'use_magic=\{"strength": 3\} is not served: such an adapter is no'),
    "experts' parameters": ({"target_parameters": ["experts.down"]}, r'target_parameters=\["experts\.down"\] is not'),
    "another base": (
        {"init_lora_weights": "pissa_niter_4"},
        r"init_lora_weights=pissa_niter_4 has changed the weights",
    ),
    "no base": ({"base_model_name_or_path": None}, r"base_model_name_or_path=null \(text is expected\)$"),
    "no rank": ({"r": 0}, r"r=0 \(at least 1 is expected\)$"),
    "no pattern": ({"rank_pattern": {"(": 3}}, r"rank_pattern has '\(', which is no pattern$"),
    "itself": ({"base_model_name_or_path": "."}, r"holds an adapter itself, and no model$"),
    "nothing there": ({"base_model_name_or_path": "./nothing"}, r"the directory nothing does not exist$"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_in_one_line(name: str, place: Path, tmp_path: Path) -> None:
    entries, message = REFUSED[name]
    change(place / "adapter", **entries)
    with pytest.raises(ModelError, match=message) as caught:
        fetch(place / "adapter", tmp_path)
    assert "\n" not in str(caught.value)
    assert str(place / "adapter") in str(caught.value)


def test_weights_from_elsewhere_are_not_for_adapters(place: Path, tmp_path: Path) -> None:
    for model_id, override in (("adapter", "base"), ("base", "adapter")):
        with pytest.raises(ModelError, match=r"^weights_cache_override=.* holds an adapter; give it as model_id alone"):
            fetch(place / model_id, tmp_path, weights_cache_override=str(place / override))


def test_all_tensors_without_a_place_are_told(place: Path) -> None:
    file = place / "adapter" / "adapter_model.safetensors"
    own, q = load_file(file), "base_model.model.model.layers.{}.self_attn.q_proj.{}"
    own |= {q.format(7, f"lora_{which}.weight"): own[q.format(0, f"lora_{which}.weight")].clone() for which in "AB"}
    own["base_model.model.score.weight"] = torch.ones(2, 32)
    own["strange"] = torch.ones(1)
    del own[q.format(1, "lora_B.weight")]
    own[q.format(0, "lora_B.weight")] = torch.ones(31, 4)
    save_file(own, file)
    with pytest.raises(ModelError) as caught:
        adapter.read(place / "adapter", Steps(place / "base", [PROMPT], needs()).spec)
    message = str(caught.value)
    assert message.startswith(f"the adapter {place / 'adapter'} does not fit its base model: ")
    for told in (
        "layers.7.self_attn.q_proj.lora_A.weight", "score.weight", "no place for tensor strange",
        "layers.1.self_attn.q_proj.lora_B.weight is missing", "[31, 32]",
    ):  # fmt: skip
        assert told in message or "more" in message
    assert message.count(";") == 5


def test_served(tmp_path: Path) -> None:
    """By two shards, from a base with a SentencePiece model; the greedy text is that of PEFT's model."""
    base = make_base("llama", tmp_path / "base", vocab_size=500, tie_word_embeddings=True)
    train_pieces(
        base / "tokenizer.model", model_type="bpe", byte_fallback=True, normalization_rule_name="identity",
        remove_extra_whitespaces=False,
    )  # fmt: skip
    model = make_adapter(base, tmp_path / "adapter", r=8, target_modules=["q_proj", "v_proj", "lm_head"])
    options = [f"model_id={tmp_path / 'adapter'}", f"conversion_cache={tmp_path / 'cache'}", "dtype=float32"]
    limits = ["max_input_length=31", "max_total_tokens=64", "max_batch_prefill_tokens=64"]
    with Server(*options, *limits, "num_shard=2") as server:
        info = server.client.get("/info").json()
        answer = server.client.post(
            "/generate", json={"inputs": "Hello wörld", "parameters": {"max_new_tokens": 8, "details": True,
                               "decoder_input_details": True}},
        ).json()["details"]  # fmt: skip
        with_eos = [token["id"] for token in answer["tokens"]]
    prompt = [token["id"] for token in answer["prefill"]]
    with torch.no_grad():
        ids = list(prompt)
        for _ in with_eos:
            ids.append(int(model(torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
    assert info["model_id"] == str(tmp_path / "adapter")
    assert len(prompt) > 3
    assert with_eos == ids[len(prompt) :]
    assert len(with_eos) == 8 or with_eos[-1] == 1

"""Medusa heads, alone, beside a model's weights or among them, here or on the hub: found like any other checkpoint.

And heads of the demo model, trained for this test, which guess its texts."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.adapters import VOCABULARY, make_adapter, make_base
from tests.hub_server import COMMIT, Hub, Repository, running
from tests.integration import reference
from tests.integration.server import Server
from tests.integration.test_speculation import model
from tests.medusa_heads import random_heads, write_heads
from tests.medusa_training import learnt, others, write_trained
from tgi_server.config.schema import DType, ModelOptions
from tgi_server.errors import FitError, ModelError
from tgi_server.launcher import weights
from tgi_server.launcher.origin import Model
from tgi_server.models import medusa
from tgi_server.models.families import read_spec
from tgi_server.speculate.base import Drafter, Surroundings
from tgi_server.speculate.medusa import load

WIDTH = 32
TENSORS = random_heads(WIDTH, VOCABULARY)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = make_base("llama", tmp_path_factory.mktemp("made") / "base")
    (base / "tokenizer.json").write_text('"of the base"')
    return base


@pytest.fixture
def base(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path / "base")
    return tmp_path / "base"


def fetch(model_id: str | Path, tmp_path: Path, judge: Any = medusa.read, **options: Any) -> Model:
    cache = {"huggingface_hub_cache": str(tmp_path / "hub"), "conversion_cache": str(tmp_path / "cache")}
    given = ModelOptions(model_id=str(model_id), **{**cache, **options})
    return weights.fetch(given, DType.float32, lambda stage, fraction: None, judge=judge)


def heads_of(model: Model) -> dict[str, torch.Tensor]:
    """The tensors of the heads that were found, without their prefix."""
    assert model.heads is not None
    found = medusa.read(model.heads, read_spec(model.directory))
    assert (found.count, found.layers, found.shared) == (3, 1, False)
    files = {info.file for info in found.tensors.values()}
    tensors = {name: x for file in files for name, x in load_file(file).items() if name in found.tensors}
    return {name.removeprefix(found.prefix): x for name, x in tensors.items()}


def same(found: dict[str, torch.Tensor]) -> bool:
    return found.keys() == TENSORS.keys() and all(torch.equal(found[name], x) for name, x in TENSORS.items())


def announce(directory: Path) -> None:
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**config, "medusa_num_heads": 2}))


@pytest.mark.parametrize("safe", [True, False])
def test_alone_they_name_their_base(base: Path, tmp_path: Path, safe: bool) -> None:
    directory = write_heads(tmp_path / "heads ☃", TENSORS, "../base", safe)
    model = fetch(directory, tmp_path)
    assert (model.directory.resolve(), model.adapter) == (base, None)
    assert same(heads_of(model))
    assert fetch(directory, tmp_path) == model
    assert (model.heads == directory) == safe, "pickles are converted"


def test_where_none_are_wanted_they_are_not_looked_at(base: Path, tmp_path: Path) -> None:
    directory = write_heads(tmp_path / "heads", TENSORS, "../base", safe=False)
    (directory / "medusa_lm_head.pt").write_bytes(b"damaged")
    model = fetch(directory, tmp_path, judge=None)
    assert (model.directory.resolve(), model.heads) == (base, None)
    with pytest.raises(ModelError, match=r"medusa_lm_head\.pt is damaged, or no checkpoint of torch"):
        fetch(directory, tmp_path)


@pytest.mark.parametrize("safe", [True, False])
def test_in_a_file_beside_a_models_weights(base: Path, tmp_path: Path, safe: bool) -> None:
    """Also where the model's own weights and tokenizer have to be converted."""
    write_heads(tmp_path / "heads", TENSORS, "org/another", safe)
    (name,) = medusa_files = [path.name for path in (tmp_path / "heads").glob("medusa_lm_head.*")]
    (tmp_path / "heads" / name).rename(base / name)
    assert fetch(base, tmp_path).heads is None, "they are not announced"
    announce(base)
    model = fetch(base, tmp_path)
    assert model.directory == base
    assert same(heads_of(model))
    torch.save(load_file(base / "model.safetensors"), base / "pytorch_model.bin")
    (base / "model.safetensors").unlink()
    converted = fetch(base, tmp_path)
    assert converted.directory != base
    assert same(heads_of(converted))
    assert medusa_files == [name]


@pytest.mark.parametrize("safe", [True, False])
def test_among_a_models_weights(base: Path, tmp_path: Path, safe: bool) -> None:
    own = load_file(base / "model.safetensors") | {f"medusa_head.{name}": x for name, x in TENSORS.items()}
    (base / "model.safetensors").unlink()
    save_file(own, base / "model.safetensors") if safe else torch.save(own, base / "pytorch_model.bin")
    announce(base)
    assert same(heads_of(fetch(base, tmp_path)))
    assert fetch(base, tmp_path, judge=None).heads is None


def test_an_adapter_leaves_the_heads_of_its_base(base: Path, tmp_path: Path) -> None:
    make_adapter(base, tmp_path / "adapter", r=4, target_modules=["q_proj"])
    save_file(TENSORS, base / "medusa_lm_head.safetensors")
    announce(base)
    model = fetch(tmp_path / "adapter", tmp_path)
    assert (model.adapter, model.heads) == (tmp_path / "adapter", base)


@pytest.fixture
def hub(base: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_API_TOKEN", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    with running() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        publish(server, "org/base", base)
        yield server


def publish(hub: Hub, name: str, directory: Path) -> None:
    files = {path.name: path.read_bytes() for path in directory.iterdir()}
    hub.repositories[name] = Repository({COMMIT: files}, pipeline_tag="text-generation")


@pytest.mark.parametrize("safe", [True, False])
def test_both_from_the_hub(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, safe: bool) -> None:
    publish(hub, "org/heads", write_heads(tmp_path / "heads", TENSORS, "org/base", safe))
    model = fetch("org/heads", tmp_path)
    assert (model.sha, model.pipeline_tag) == (COMMIT, "text-generation")
    assert same(heads_of(model))
    hub.requests.clear()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert fetch("org/heads", tmp_path) == model
    assert hub.requests == []


def test_beside_weights_on_the_hub(hub: Hub, base: Path, tmp_path: Path) -> None:
    save_file(TENSORS, base / "medusa_lm_head.safetensors")
    announce(base)
    publish(hub, "org/both", base)
    assert same(heads_of(fetch("org/both", tmp_path)))


def test_what_does_not_fit_is_told_before_the_base_is_downloaded(hub: Hub, tmp_path: Path) -> None:
    tensors = random_heads(WIDTH + 1, VOCABULARY)
    publish(hub, "org/heads", write_heads(tmp_path / "heads", tensors, "org/base"))
    with pytest.raises(FitError, match=r"^the Medusa heads in .* do not fit their base model: tensor ") as caught:
        fetch("org/heads", tmp_path)
    assert "\n" not in str(caught.value)
    assert hub.asked_for("GET", "/medusa_lm_head.safetensors") == 1
    assert hub.asked_for("GET", "/model.safetensors") == 0
    assert fetch("org/heads", tmp_path, judge=None).heads is None, "the way out that is told"


REFUSED = {
    "itself": (".", r"^the base model of the Medusa heads .* holds Medusa heads itself, and no model$"),
    "nothing there": ("./nothing", r"the directory nothing does not exist$"),
    "no name": ("", r"config\.json: base_model_name_or_path='' \(text is expected\)$"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_in_one_line(base: Path, tmp_path: Path, name: str) -> None:
    named, message = REFUSED[name]
    directory = write_heads(tmp_path / "heads", TENSORS, named)
    with pytest.raises(ModelError, match=message) as caught:
        fetch(directory, tmp_path)
    assert "\n" not in str(caught.value)


def test_weights_from_elsewhere_are_not_for_heads_alone(base: Path, tmp_path: Path) -> None:
    heads = write_heads(tmp_path / "heads", TENSORS, "../base")
    for model_id, override in ((heads, base), (base, heads)):
        with pytest.raises(ModelError, match=r"^weights_cache_override=.* holds Medusa heads; give it as model_id"):
            fetch(model_id, tmp_path, weights_cache_override=str(override))


@dataclass
class Guessing:
    """Heads in a directory as a part `speculation`."""

    directory: Path
    most: int | None = None
    uses_heads: ClassVar[bool] = True

    def drafter(self, surroundings: Surroundings) -> Drafter:
        return load(surroundings, self.directory, self.most)


@pytest.mark.timeout(900)  # training takes a minute, or more beside other tests
@pytest.mark.parametrize(("own", "safe", "most"), [(False, True, 3), (True, True, 3), (False, True, 1)])
def test_trained_heads_guess_right_and_change_nothing(tmp_path: Path, own: bool, safe: bool, most: int) -> None:
    directory = write_trained(tmp_path, own, safe)
    requests = [model().request(prompt, 48) for prompt in [*learnt()[:4], others()[0]]]
    requests.append(model().request(learnt()[4], 48, do_sample=True, seed=3, repetition_penalty=1.1))
    plain = model().texts(requests, None, 0)
    assert model().texts(requests, Guessing(directory, most), most) == plain
    right = sum(count - 1 for count in model().counts if count > 1)
    assert max(model().counts) == 1 + most, "all guesses of a step were right at times"
    assert right > 0.3 * model().guessed / most, "so much of the first guesses alone"


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("num_shard", "own", "safe", "speculate"), [(1, False, False, None), (2, True, True, 2), (3, False, True, 3)]
)
def test_served(
    tmp_path: Path, float32_server: Server, num_shard: int, own: bool, safe: bool, speculate: int | None
) -> None:
    """With as many guesses as there are heads, unless it is said."""
    directory = write_trained(tmp_path / "heads", own, safe)
    given = [f"model_id={directory}", "dtype=float32", f"num_shard={num_shard}", "max_total_tokens=2000"]
    given += [f"conversion_cache={tmp_path / 'cache'}"] if not safe else []
    given += [] if speculate is None else [f"speculate={speculate}"]
    prompts = others()[:2]
    right = [float32_server.generate(prompt, max_new_tokens=24)["generated_text"] for prompt in prompts]
    with Server(*given) as server:
        assert [server.generate(prompt, max_new_tokens=24)["generated_text"] for prompt in prompts] == right
        assert "of guessing by texts" in server.output


def test_more_guesses_than_heads_are_refused(tmp_path: Path) -> None:
    """Before the base model is read."""
    directory = write_heads(tmp_path, random_heads(576, 49152, 2, shared=True), reference.DEMO)
    command = [sys.executable, "-m", "tgi_server", f"model_id={directory}", "speculate=3", "port=0"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert (result.returncode, result.stderr.strip().count("\n")) == (1, 0), result.stderr
    assert "speculate=3: the checkpoint has 2 Medusa heads; speculate=2 works" in result.stderr

"""Models from the hub, against a small server on this machine that answers as the hub does."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
from safetensors.numpy import save

from tests.hub_server import COMMIT, Fault, Hub, Repository, running
from tgi_server.config.schema import DType, ModelOptions
from tgi_server.errors import ModelError
from tgi_server.launcher import weights
from tgi_server.launcher.origin import Model

OTHER_COMMIT = "f" * 40
CONFIG = {
    "model_type": "llama", "vocab_size": 8, "hidden_size": 4, "intermediate_size": 8, "num_hidden_layers": 1,
    "num_attention_heads": 2, "max_position_embeddings": 16, "rms_norm_eps": 1e-5,
}  # fmt: skip
DESCRIPTION = {
    "config.json": json.dumps(CONFIG).encode(),
    "tokenizer.json": b"{}",
    "chat_template.jinja": b"{{ messages }}",
}
INDEX = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
FILES = {
    **DESCRIPTION,
    "model-1.safetensors": save({"a": np.ones((6, 1 << 20), np.float32)}),
    "model-2.safetensors": save({"b": np.ones(1)}),
    "model.safetensors.index.json": json.dumps(INDEX).encode(),
    "pytorch_model.bin": b"not wanted",
    "onnx/model.safetensors": b"not wanted",
    "consolidated.safetensors": b"not wanted",
}
WANTED = {*DESCRIPTION, "model-1.safetensors", "model-2.safetensors", "model.safetensors.index.json"}
SMALL = {**DESCRIPTION, "model.safetensors": save({"a": np.ones(3)})}


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_API_TOKEN", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with running() as server:
        server.repositories["org/model"] = Repository({COMMIT: FILES})
        server.repositories["org/small"] = Repository({COMMIT: SMALL})
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server


def fetch(model_id: str, cache: Path, **options: object) -> tuple[Path, list[tuple[str, float]]]:
    seen: list[tuple[str, float]] = []
    given = ModelOptions(model_id=model_id, huggingface_hub_cache=str(cache), **options)  # type: ignore[arg-type]
    return weights.fetch(given, DType.float32, lambda *progress: seen.append(progress)).directory, seen


def test_a_model_is_downloaded_once(hub: Hub, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    hub.delay = 0.5  # long enough for progress to be seen
    cache = tmp_path / "ein Verzeichnis für Modelle ☃"
    directory, seen = fetch("org/model", cache)
    assert {stage for stage, _ in seen} - {"Starting", "Looking up org/model"} == {"Downloading org/model"}
    assert any(0.3 < fraction < 0.7 for _, fraction in seen)
    assert {path.name for path in directory.iterdir()} == WANTED
    assert directory.is_relative_to(cache)

    hub.requests.clear()
    before = states(cache)
    assert fetch("org/model", cache)[0] == directory
    assert hub.requests == []
    assert states(cache) == before, "a complete cache may be read-only"
    assert capfd.readouterr() == ("", "")


def states(directory: Path) -> dict[Path, int]:
    return {path: path.lstat().st_mtime_ns for path in (directory, *directory.rglob("*"))}


def test_a_damaged_cache_is_completed(hub: Hub, tmp_path: Path) -> None:
    directory, _ = fetch("org/model", tmp_path)
    for name in ("tokenizer.json", "model-2.safetensors"):
        (directory / name).unlink()
        assert fetch("org/model", tmp_path)[0] == directory
        assert (directory / name).exists()
    assert hub.asked_for("GET", "/model-1.safetensors") == 1


def test_a_revision_is_a_branch_a_tag_a_commit_or_a_pull_request(hub: Hub, tmp_path: Path) -> None:
    other = {**SMALL, "chat_template.jinja": b"another"}
    names = ["v1.0", "refs/pr/2"]
    refs = {"main": COMMIT, **dict.fromkeys(names, OTHER_COMMIT)}
    hub.repositories["org/small"] = Repository({COMMIT: SMALL, OTHER_COMMIT: other}, refs)
    for revision in (*names, OTHER_COMMIT):
        directory, _ = fetch("org/small", tmp_path, revision=revision)
        assert (directory / "chat_template.jinja").read_bytes() == b"another"
    assert hub.asked_for("GET", "/model.safetensors") == 1
    assert (fetch("org/small", tmp_path)[0] / "chat_template.jinja").read_bytes() == b"{{ messages }}"


def served(cache: Path) -> Model:
    options = ModelOptions(model_id="org/small", huggingface_hub_cache=str(cache))
    return weights.fetch(options, DType.float32, lambda stage, fraction: None)


def test_what_the_hub_says_of_a_model_is_kept(hub: Hub, tmp_path: Path) -> None:
    hub.repositories["org/small"].pipeline_tag = "text-generation"
    model = served(tmp_path)
    assert (model.sha, model.pipeline_tag) == (COMMIT, "text-generation")
    hub.requests.clear()
    assert served(tmp_path) == model
    assert hub.requests == []
    assert list(huggingface_hub.scan_cache_dir(tmp_path).warnings) == []


def test_a_hub_that_does_not_say_is_no_hindrance(hub: Hub, tmp_path: Path) -> None:
    hub.repositories["org/small"].pipeline_tag = "text-generation"
    hub.faults = [Fault("GET", f"/org/small/revision/{COMMIT}", 503)]
    for _ in range(2):
        model = served(tmp_path)
        assert (model.sha, model.pipeline_tag) == (COMMIT, None)


def test_passing_failures_are_survived_and_lasting_ones_end(hub: Hub, tmp_path: Path) -> None:
    """All at once, as most of the time is spent waiting between tries."""
    hub.repositories["org/large"] = hub.repositories["org/model"]
    hub.faults = [
        Fault("GET", "/org/small/revision/main", 502, times=100),
        Fault("GET", "/org/large/revision/main", 503),
        Fault("GET", f"/org/large/resolve/{COMMIT}/tokenizer.json", "reset"),
        Fault("GET", f"/org/large/resolve/{COMMIT}/model-1.safetensors", "cut"),
        Fault("GET", f"/org/large/resolve/{COMMIT}/model-2.safetensors", 503),
        Fault("GET", f"/org/model/resolve/{COMMIT}/model-1.safetensors", "reset"),
    ]
    with ThreadPoolExecutor() as pool:
        small, large, model = (pool.submit(fetch, f"org/{name}", tmp_path) for name in ("small", "large", "model"))
        with pytest.raises(ModelError, match=r"^model_id=org/small: .* the hub answers with HTTP status 502$"):
            small.result()
        assert hub.asked_for("GET", "/org/small/revision/main") == 5
        for directory, _ in (large.result(), model.result()):
            assert {path.name for path in directory.iterdir()} == WANTED
            assert all((directory / name).read_bytes() == FILES[name] for name in WANTED)
    assert [fault.times for fault in hub.faults[1:]] == [0, 0, 0, 0, 0]
    resumed = f"GET /org/large/resolve/{COMMIT}/model-1.safetensors bytes=10485760-"
    assert resumed in hub.requests, "after the part that has arrived"
    assert "Looking up org/large, try 2" in {stage for stage, _ in large.result()[1]}
    assert not list(tmp_path.rglob("*.incomplete"))


def test_two_at_once_share_the_work(hub: Hub, tmp_path: Path) -> None:
    hub.delay = 0.5
    with ThreadPoolExecutor() as pool:
        (one, _), (two, _) = pool.map(lambda _: fetch("org/model", tmp_path), range(2))
    assert one == two
    assert hub.asked_for("GET", "/model-1.safetensors") == 1


def test_without_a_connection(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory, _ = fetch("org/small", tmp_path)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(ModelError, match=r"^model_id=org/model: no such directory, and it cannot be .*: [^\n]+$"):
        fetch("org/model", tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ModelError, match=r"does not hold it completely \(HF_HUB_OFFLINE is set\)$"):
        fetch("org/model", tmp_path)
    assert fetch("org/small", tmp_path)[0] == directory


@pytest.mark.parametrize(
    ("model_id", "revision", "token", "message"),
    [
        ("org/other", None, None, r"the hub has no such model \(a private one needs HF_TOKEN\)$"),
        ("org/gated", None, None, r"licence must be accepted first; then set HF_TOKEN$"),
        ("org/private", None, None, r"the hub has no such model \(a private one needs HF_TOKEN\)$"),
        ("org/private", None, "wrong", r"the hub does not accept the token \(HF_TOKEN\)$"),
        ("org/private", None, "narrow", r"does not allow this token \(HF_TOKEN\) to read it$"),
        ("org/private", None, "se\x0bcret", r"the token \(HF_TOKEN\) holds characters that no token has$"),
        ("org/private", None, "sécret", r"the token \(HF_TOKEN\) holds characters that no token has$"),
        ("org/small", "v9", None, r"it has no revision v9$"),
        ("a/b/c", None, None, r"it is not an id of the hub either$"),
    ],
)
def test_what_the_hub_refuses(
    hub: Hub,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    model_id: str,
    revision: str | None,
    token: str | None,
    message: str,
) -> None:
    hub.repositories["org/gated"] = Repository({COMMIT: FILES}, gated=True)
    hub.repositories["org/private"] = Repository({COMMIT: SMALL}, token="right")
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(ModelError, match=f"^model_id={model_id}: no such directory, and .*{message}") as caught:
        fetch(model_id, tmp_path, revision=revision)
    assert "\n" not in str(caught.value)
    assert "cret" not in str(caught.value)


@pytest.mark.parametrize("variable", ["HUGGING_FACE_HUB_TOKEN", "HF_API_TOKEN"])
def test_the_token_comes_from_the_environment(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, capfd: pytest.CaptureFixture[str]
) -> None:
    hub.repositories["org/private"] = Repository({COMMIT: SMALL}, token="right")
    monkeypatch.setenv(variable, "right")
    monkeypatch.setenv("HF_HUB_ENABLE_HF_TRANSFER", "1")  # as container images do; the library only complains
    fetch("org/private", tmp_path)
    assert hub.tokens == {"Bearer right"}
    assert capfd.readouterr() == ("", "")


REFUSED: dict[str, tuple[dict[str, bytes | None], str]] = {
    "another-architecture": ({"config.json": b'{"model_type": "bert"}'}, "model_type 'bert' is not served"),
    "no-tokenizer": ({"tokenizer.json": None}, r"has no tokenizer\.json, nor a file to make one of: "),
    "missing-file": ({"model-2.safetensors": None}, r"index\.json names: model-2\.safetensors$"),
    "strange-index": (
        {"model.safetensors.index.json": b'{"weight_map": {"a": "../../a.safetensors"}}'},
        r"names what is no \.safetensors file beside it: '\.\./\.\./a\.safetensors'$",
    ),
}


def test_code_comes_along_only_if_it_may_run(hub: Hub, tmp_path: Path) -> None:
    """Of the pinned revision; and it is fetched when that is allowed later."""
    named = json.dumps({**CONFIG, "auto_map": {"AutoConfig": "configuration_odd.OddConfig"}}).encode()
    files = {**SMALL, "config.json": named, "configuration_odd.py": b"old", "modeling_odd.py": b"imported by it"}
    new = {**files, "configuration_odd.py": b"new"}
    hub.repositories["org/odd"] = Repository({COMMIT: files, OTHER_COMMIT: new})
    directory, _ = fetch("org/odd", tmp_path, revision=COMMIT)
    assert not [*directory.glob("*.py")]
    assert fetch("org/odd", tmp_path, revision=COMMIT, trust_remote_code=True)[0] == directory
    assert (directory / "configuration_odd.py").read_bytes() == b"old" and (directory / "modeling_odd.py").is_file()
    requests = len(hub.requests)
    assert fetch("org/odd", tmp_path, revision=COMMIT, trust_remote_code=True)[0] == directory
    assert len(hub.requests) == requests


def test_what_cannot_be_served_is_not_downloaded(hub: Hub, tmp_path: Path) -> None:
    for case, (changes, _) in REFUSED.items():
        changed: dict[str, bytes | None] = {**FILES, **changes}
        files = {name: content for name, content in changed.items() if content is not None}
        hub.repositories[f"org/{case}"] = Repository({COMMIT: files})
    with ThreadPoolExecutor(2) as pool:
        found = {case: pool.submit(fetch, f"org/{case}", tmp_path, trust_remote_code=True) for case in REFUSED}
    for case, (_, message) in REFUSED.items():
        with pytest.raises(ModelError, match=message) as caught:
            found[case].result()
        assert "\n" not in str(caught.value)
    assert hub.asked_for("GET", "/model-1.safetensors") == 0


def test_weights_from_elsewhere_with_the_description_from_the_cache(hub: Hub, tmp_path: Path) -> None:
    override = tmp_path / "own"
    override.mkdir()
    (override / "model.safetensors").write_bytes(save({"z": np.ones(3)}))
    options = {"weights_cache_override": str(override), "conversion_cache": str(tmp_path / "c")}
    with pytest.raises(ModelError, match=r"^model_id=org/small: .* nothing is downloaded with weights_cache_override$"):
        fetch("org/small", tmp_path, **options)
    assert hub.requests == []
    fetch("org/small", tmp_path)
    hub.requests.clear()
    directory, _ = fetch("org/small", tmp_path, **options)
    assert (directory / "model.safetensors").samefile(override / "model.safetensors")
    assert (directory / "chat_template.jinja").read_bytes() == b"{{ messages }}"
    assert hub.requests == []

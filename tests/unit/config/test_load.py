"""Composition from directories of one's own, the way to child processes, and parts."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest
import yaml

from tgi_server.config import describe, load
from tgi_server.config.arguments import Arguments
from tgi_server.config.base import Part
from tgi_server.config.schema import DType, Launch, LogLevel, Resolved, ServerConfig
from tgi_server.errors import UsageError

EETQ = "tgi_server.quantize.eetq.Eetq"


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A directory with spaces in its name, a replaced choice, a new one, and a main file."""
    site = tmp_path / "my site"
    for name, text in {
        "batching/default": "# @package _global_\nmax_batch_size: 3",
        "batching/mine": "# @package _global_\nmax_batch_size: 5",
        "batching/typo": "# @package _global_\nmax_batch_sise: 5",
        "batching/wrong": "# @package _global_\nmax_batch_size: some",
        "batching/zero": "# @package _global_\nmax_batch_size: 0",
        "batching/broken": "a: [",
        "batching/missing": "# @package _global_\nport: ???",
        "batching/commit": "# @package _global_\nrevision: 5e1234",
        "site": "defaults: [config, _self_, {override batching: mine}]\nport: 99",
        "loose": "port: 99",
        "deployment/mine": "# @package _global_\ndefaults: [override /quantize: eetq]\nmax_batch_size: 7",
        "cloud": "defaults: [config, _self_, {override deployment: sagemaker}]",
    }.items():
        path = site / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return site


def test_own_directory_comes_first(site: Path) -> None:
    assert load.compose([], str(site)).max_batch_size == 3
    assert load.compose(["batching=mine"], str(site)).max_batch_size == 5
    assert load.compose(["batching=throughput"], str(site)).max_concurrent_requests == 512
    assert load.compose([]).max_batch_size is None


def test_own_main_file(site: Path) -> None:
    config = load.compose([], str(site), "site")
    assert (config.port, config.max_batch_size) == (99, 5)


def origins(overrides: list[str], site: Path, name: str = "config", **typed: str) -> dict[str, str]:
    """Where all that is not the default came from."""
    composed = load.composition(Arguments(overrides, typed, config_dir=str(site), config_name=name))
    return {name: composed.origins[name] for name in describe.differing(composed.config)}


def test_provenance(site: Path) -> None:
    assert origins(["batching=mine"], site) == {"max_batch_size": f"group file {site}/batching/mine.yaml"}
    assert origins(["batching=throughput"], site)["max_waiting_tokens"] == "group file conf/batching/throughput.yaml"
    assert origins([], site, "site")["port"] == f"file {site}/site.yaml"
    assert origins([], site, "site")["max_batch_size"] == f"group file {site}/batching/mine.yaml"
    assert origins(["deployment=mine", "batching=mine"], site) == {
        "max_batch_size": f"deployment file {site}/deployment/mine.yaml",
        "quantize": f"deployment file {site}/deployment/mine.yaml",
    }
    assert origins(["deployment=mine", "quantize=none", "port=1"], site, port="--port", quantize="--quantize") == {
        "max_batch_size": f"deployment file {site}/deployment/mine.yaml",
        "port": "--port",
    }
    inside = {"quantize._target_": "command line"}
    assert origins([f"quantize._target_={EETQ}", "deployment=mine"], site, **inside)["quantize"] == "command line"


def test_shown_with_provenance(site: Path) -> None:
    overrides = ["batching=mine", "revision='${oc.env:HOME}'", "cors_allow_origin=[a,'b #c']", "ngrok_authtoken=s3cret"]
    overrides += ["tokenizer_config_path='a\\nb # c'", "otlp_endpoint='http://u:s3cret@h'"]
    typed = dict.fromkeys(["revision", "cors_allow_origin", "ngrok_authtoken", "tokenizer_config_path"], "command line")
    composed = load.composition(Arguments(overrides, {**typed, "otlp_endpoint": "environment"}, config_dir=str(site)))
    text = load.as_yaml(composed)
    assert f"max_batch_size: 5  # group file {site}/batching/mine.yaml\n" in text
    assert "revision: ${oc.env:HOME}  # command line\n" in text
    assert "port: 3000\n" in text
    assert "s3cret" not in text
    commit = load.composition(Arguments(["revision='5e1234'"], {"revision": "--revision"}))
    assert "revision: '5e1234'  # --revision\n" in load.as_yaml(commit)
    shown = yaml.safe_load(text)
    assert shown["cors_allow_origin"] == ["a", "b #c"]
    assert shown["tokenizer_config_path"] == composed.config.tokenizer_config_path
    assert shown["quantize"] == {"_target_": "tgi_server.quantize.none.NoQuantize"}
    assert yaml.safe_load(load.as_yaml(composed, resolve=True))["revision"] == os.environ["HOME"]


@pytest.mark.parametrize(("override", "name", "words"), [
    ("batching=typo", "config", ["max_batch_sise", "max_batch_size", "batching/typo.yaml"]),
    ("batching=wrong", "config", ["max_batch_size=some", "whole number", "batching/wrong.yaml"]),
    ("batching=zero", "config", ["max_batch_size=0", "at least 1", "batching/zero.yaml"]),
    ("batching=broken", "config", ["broken.yaml"]),
    ("batching=none", "config", ["batching=none", "mine", "throughput"]),
    ("port=1", "loose", ["loose", "defaults"]),
    ("batching=commit", "config", ["revision=inf", "quotes", "batching/commit.yaml"]),
    ("port=1", "cloud", ["deployment=sagemaker", "command line"]),
])  # fmt: skip
def test_mistakes_in_files(site: Path, override: str, name: str, words: list[str]) -> None:
    with pytest.raises(UsageError) as error:
        load.compose([override], str(site), name)
    assert "\n" not in str(error.value)
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize("override", [
    "+api_key=s3cret'", "++api_key={s3cret", "api_key@x=s3cret", "+api_key.x={s3cret", "~api_key=s3cret'",
])  # fmt: skip
def test_what_cannot_be_read_shows_no_secret(override: str) -> None:
    with pytest.raises(UsageError) as error:
        load.compose([override])
    assert "api_key" in str(error.value) and "s3cret" not in str(error.value)


def test_composed_is_frozen() -> None:
    with pytest.raises(AttributeError):
        load.compose([]).port = 1


@pytest.mark.parametrize("text", ["${x}", "null", "5e1234", "ü 漢 🙂", "a\nb", "'\"\\"])
def test_the_way_to_a_child_changes_nothing(text: str) -> None:
    config = ServerConfig(model_id=text, dtype=DType.bfloat16, log_level=LogLevel.debug, router=Part("tgi_server.x.y"))
    launch = Launch(config, Resolved(model_dir=text, num_shard=3, dtype=DType.float16, listen_fd=7))
    written = load.dump(launch)
    assert written.isascii()
    read = load.read(io.StringIO(written))
    assert read == launch
    with pytest.raises(AttributeError):
        read.config.quantize._target_ = "x"


def test_a_value_still_to_be_given_is_not_taken_for_the_default(site: Path) -> None:
    with pytest.raises(UsageError, match=r"port=\?\?\?: .*group file .*batching/missing.yaml"):
        load.compose(["batching=missing"], str(site))


def test_instantiate() -> None:
    launch = load.instantiate(Part("tgi_server.config.schema.Resolved"), num_shard=4)
    assert launch == Resolved(num_shard=4)


@pytest.mark.parametrize("target", ["os.system", "tgi_server_evil.x", "tgi_server.nothing.X", "tgi_server.types.X", ""])
def test_instantiate_refuses(target: str) -> None:
    with pytest.raises(UsageError, match="_target_"):
        load.instantiate(Part(target))

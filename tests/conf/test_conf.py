"""Every YAML file in conf/ composes and has the right types; the files are found, not listed."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from tgi_server.config import files, load
from tgi_server.config.base import Part
from tgi_server.config.schema import ServerConfig

ROOT = files.directory()
PARTS = {name for name, value in vars(ServerConfig()).items() if isinstance(value, Part)}
FILES = sorted(path.relative_to(ROOT) for path in ROOT.rglob("*.yaml"))


def test_files_are_found() -> None:
    assert Path("config.yaml") in FILES
    assert {path.parent.name for path in FILES} == {"", *files.groups()}


@pytest.mark.parametrize("path", FILES, ids=str)
def test_composes_and_type_checks(path: Path) -> None:
    overrides = [f"{path.parent}={path.stem}"] if path.parent.name else []
    config = load.compose([*overrides, "model_id=some/model"])  # one deployment has to be given a model
    assert isinstance(config, ServerConfig)


def test_the_defaults_are_those_of_the_schema() -> None:
    assert load.compose([]) == ServerConfig()


@pytest.mark.parametrize("path", [path for path in FILES if path.parent.name == "deployment"], ids=str)
def test_deployments_are_a_few_lines(path: Path) -> None:
    assert len((ROOT / path).read_text().splitlines()) <= 10


def test_rope_presets() -> None:
    assert load.compose(["rope=linear", "rope_factor=2"]) == load.compose(["rope_scaling=linear", "rope_factor=2"])
    assert load.compose(["rope=dynamic"]) == load.compose(["rope_scaling=dynamic"])


@pytest.mark.parametrize("path", [path for path in FILES if path.parent.name in PARTS], ids=str)
def test_parts_can_be_made(path: Path) -> None:
    """Of nothing but their YAML."""
    part = getattr(load.compose([f"{path.parent}={path.stem}"]), path.parent.name)
    assert isinstance(part, Part)
    made = load.instantiate(part)
    assert f"{type(made).__module__}.{type(made).__name__}" == part._target_


def test_the_demo_model_is_in_its_package() -> None:
    name, _, file = load.compose(["model=smollm2"]).model_id.removeprefix("package:").partition("/")
    spec = importlib.util.find_spec(name)
    assert spec is not None and spec.origin is not None
    assert Path(spec.origin).with_name(file).is_file()

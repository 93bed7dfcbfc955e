"""Launch configurations written for text-generation-inference compose, or are refused with a line that helps."""

from __future__ import annotations

import shlex
from enum import Enum
from pathlib import Path
from typing import Any

import pytest
import yaml

from tgi_server.config import cli, describe, load, options
from tgi_server.config.arguments import Arguments
from tgi_server.errors import ConfigError
from tgi_server.launcher import check

CASES: list[dict[str, Any]] = yaml.safe_load(Path(__file__).with_name("elsewhere.yaml").read_text())
NAMES = [case["name"] for case in CASES]


@pytest.fixture
def arguments(case: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Arguments:
    given = case.get("env", {})
    pairs = given.items() if isinstance(given, dict) else [line.split("=", 1) for line in given]
    environ = {name: str(value) for name, value in pairs}
    for name, text in environ.items():
        monkeypatch.setenv(name, text)  # the deployment of SageMaker interpolates one
    return cli.parse(shlex.split(case.get("argv", "")), environ)


def plain(value: Any) -> Any:
    return value.name if isinstance(value, Enum) else value


def test_there_are_many_and_each_says_what_becomes_of_it() -> None:
    assert len(CASES) >= 30 and len(set(NAMES)) == len(NAMES)
    assert all(("composed" in case) != ("refused" in case) for case in CASES)
    for style in ("docker run", "compose", "Helm", "Kubernetes", "SageMaker", "systemd"):
        assert sum(name.startswith(style) for name in NAMES) >= 3


@pytest.mark.parametrize("case", [case for case in CASES if "composed" in case], ids=lambda case: case["name"])
def test_composes(case: dict[str, Any], arguments: Arguments) -> None:
    run = load.composition(arguments)
    check.options(run.config, run.origins, case.get("gpus", 1))
    values = options.values(run.config)
    assert {name: plain(values[name]) for name in describe.differing(run.config)} == case["composed"]
    lines, expected = [*arguments.warnings, *arguments.suspects], case.get("told", [])
    assert len(lines) == len(expected), lines
    for words in expected:
        assert sum(words in line for line in lines) == 1, (words, lines)


@pytest.mark.parametrize("case", [case for case in CASES if "refused" in case], ids=lambda case: case["name"])
def test_is_refused(case: dict[str, Any], arguments: Arguments) -> None:
    with pytest.raises(ConfigError) as error:
        run = load.composition(arguments)
        check.options(run.config, run.origins, case.get("gpus", 1))
    assert error.value.exit_code == case["exit"]
    assert "\n" not in str(error.value)
    for words in case["refused"]:
        assert words in str(error.value)

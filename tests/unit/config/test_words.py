"""Lengths that may be a word: `auto`."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import yaml

from tgi_server.config import cli, describe, load
from tgi_server.config.schema import AUTO, Launch, ServerConfig
from tgi_server.errors import UsageError


def composed(*argv: str, environ: dict[str, str] | None = None) -> ServerConfig:
    return load.composition(cli.parse(argv, environ or {})).config


@pytest.mark.parametrize(
    "argv", [["max_total_tokens=auto"], ["--max-total-tokens", "auto"], ["--max-total-tokens=auto"]]
)
def test_every_spelling(argv: list[str]) -> None:
    config = composed(*argv)
    assert config.max_total_tokens == config.max_input_length == AUTO


def test_a_variable_and_a_file(tmp_path: Path) -> None:
    assert composed(environ={"MAX_TOTAL_TOKENS": "auto"}).max_total_tokens == AUTO
    (tmp_path / "site.yaml").write_text("defaults: [config, _self_]\nmax_total_tokens: auto\nmax_input_length: 77\n")
    config = composed("--config-dir", str(tmp_path), "--config-name", "site")
    assert (config.max_input_length, config.max_total_tokens) == (77, AUTO), "prompts that were asked for stay"


@pytest.mark.parametrize("text", ["2048", "'2048'", "2_048"])
def test_numbers_are_numbers(text: str) -> None:
    config = composed(f"max_total_tokens={text}")
    assert config.max_total_tokens == 2048 and type(config.max_total_tokens) is int


def test_an_interpolation_takes_the_number_or_the_word() -> None:
    assert (
        composed("max_total_tokens=3000", "max_batch_prefill_tokens=${max_total_tokens}").max_batch_prefill_tokens
        == 3000
    )
    assert composed("max_total_tokens=auto", "max_input_length=${max_total_tokens}").max_input_length == AUTO


@pytest.mark.parametrize("text", ["Auto", "null", "2.5", "[1]", "{a: 1}", "true", "''", "x", "9" * 5000])
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(UsageError) as error:
        composed(f"max_total_tokens={text}")
    assert str(error.value).startswith("max_total_tokens=")
    assert "expected a whole number or auto" in str(error.value) or "may not be empty" in str(error.value)


@pytest.mark.parametrize("number", [AUTO, -1])
def test_what_a_word_is_kept_as_is_no_number(number: int) -> None:
    with pytest.raises(UsageError, match=f"max_total_tokens={number}: must be at least 2"):
        composed(f"max_total_tokens={number}")


def test_it_is_told_as_it_is_written() -> None:
    found = load.composition(cli.parse(["max_total_tokens=auto"], {}))
    told = ["max_input_length=auto (as max_total_tokens)", "max_total_tokens=auto (command line)"]
    assert describe.changed(found.config, found.origins) == told
    for resolve in (False, True):
        values = yaml.safe_load(load.as_yaml(found, resolve))
        assert values["max_total_tokens"] == values["max_input_length"] == "auto"


def test_children_get_it() -> None:
    launch = Launch(composed("max_total_tokens=auto"))
    assert load.read(io.StringIO(load.dump(launch))).config == launch.config

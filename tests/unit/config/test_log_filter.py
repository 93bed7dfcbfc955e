"""LOG_LEVEL as other programs write it: it never stops a start, and what is left out is said."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tgi_server.config import cli, load
from tgi_server.config.arguments import Arguments
from tgi_server.config.schema import LogLevel
from tgi_server.errors import UsageError
from tgi_server.launcher.check import LEVEL


def parsed(text: str) -> Arguments:
    return cli.parse([], {"LOG_LEVEL": text})


@pytest.mark.parametrize(("text", "level", "levels", "left_out"), [
    ("info", "info", [], None),
    ("INFO", "info", [], None),
    ("Warning", "warn", [], None),
    (" debug ", "debug", [], None),
    ("2", "warn", [], None),
    ("off", "error", [], None),
    ("info,text_generation_router=debug", "info", ["router=debug"], None),
    ("TEXT_GENERATION_ROUTER=Debug,WARN", "warn", ["router=debug"], None),
    ("text_generation_launcher=trace,text_generation_server=warn", None, ["launcher=trace", "shard=warn"], None),
    ("info,tgi_server::engine=debug,tgi_server.router=trace", "info",
     ["tgi_server.engine=debug", "tgi_server.router=trace"], None),
    ("text_generation_router::infer=debug", None, ["router=debug"], None),
    ("Warn,h2=off", "warn", [], "h2=off"),
    ("info,tower_http=debug,axum=trace", "info", [], "tower_http=debug, axum=trace"),
    ("info,text_generation_router[request{id=1,user=2}]=debug", "info", [],
     "text_generation_router[request{id=1,user=2}]=debug"),
    ("loud", None, [], "loud"),
    ("router=loud,,", None, [], "router=loud"),
    ("debug,info", "info", [], None),
    ("=,=", None, [], "=, ="),
])  # fmt: skip
def test_filters(text: str, level: str | None, levels: list[str], left_out: str | None) -> None:
    arguments = parsed(text)
    config = load.composition(arguments).config
    assert (config.log_level.name, config.log_levels) == (level or "info", levels)
    told = [f"environment variable LOG_LEVEL={text}: {left_out} is left out, neither a level nor a part of this server"]
    assert arguments.warnings == (told if left_out else [])


ANY = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
PIECES = st.sampled_from(["info", "OFF", "tgi_server", "router", "::", ".", "=", ",", " ", "[", "]", "x"])


@given(ANY | st.lists(PIECES).map("".join))
def test_nothing_stops_a_start(text: str) -> None:
    arguments = parsed(text)
    assert arguments.problems == []
    for override in arguments.overrides:
        level = override.partition("=")[2].strip("[]'")
        assert re.fullmatch(LEVEL, level) or level in LogLevel.__members__
    understood = {"log_level", "log_levels"} & arguments.origins.keys()
    assert understood or arguments.warnings or not text.replace(",", "").strip()


def test_the_command_line_is_held_to_the_names_of_levels() -> None:
    with pytest.raises(UsageError, match="expected one of trace"):
        load.composition(cli.parse(["log_level=loud"], {}))
    arguments = cli.parse(["--log-level", "warn"], {"LOG_LEVEL": "debug,router=trace"})
    config = load.composition(arguments).config
    assert (config.log_level.name, config.log_levels) == ("warn", [])

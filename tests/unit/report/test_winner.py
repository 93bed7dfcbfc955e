"""The winner's file starts the winner."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.unit.report.examples import FACTS, plausible, summary, sweep
from tgi_server.config import options
from tgi_server.config.arguments import Arguments
from tgi_server.config.load import compose, composition
from tgi_server.config.schema import ServerConfig
from tgi_server.report import page
from tgi_server.sweep.record import Described, Sweep

OPTIONS: list[dict[str, str]] = [
    {"model": "smollm2", "max_waiting_tokens": "5", "quantize": "eetq", "prefix_caching": "false"},
    {"model_id": "org/name", "revision": "1e5", "dtype": "bfloat16", "waiting_served_ratio": "0.3"},
    {"model_id": "/a dir/${home}/\\${x}: # 'quoted' \"twice\"", "trust_remote_code": "true", "revision": "yes"},
    {"quantize": "bitsandbytes-nf4", "quantize.block": "128", "quantize.compress_statistics": "false"},
    {"quantize": "tgi_server.quantize.eetq.Eetq", "speculation": "ngram", "speculation.longest": "8"},
    {"batching": "throughput", "attention": "torch", "rope_scaling": "dynamic", "rope_factor": "2.5"},
]


def measured(chosen: Mapping[str, str]) -> Sweep:
    made = sweep([{}], {1: [summary(100.0)] * 3})
    return replace(made, points=[Described(1, {}, chosen, 8)])


def from_file(directory: Path) -> ServerConfig:
    """As `--config-dir DIR --deployment best` composes it."""
    return compose(["deployment=best"], config_dir=str(directory))


def from_command_line(chosen: Mapping[str, str]) -> ServerConfig:
    arguments = Arguments()
    for name, text in chosen.items():
        if text.startswith("tgi_server."):
            arguments.write(name, f"{name}._target_={text}", "command line")
        else:
            arguments.set(name, text, "command line")
    return composition(arguments).config


def values(config: ServerConfig) -> dict[str, Any]:
    return options.values(config, whole=True)


@pytest.mark.parametrize("chosen", OPTIONS)
def test_composed_it_is_the_point(chosen: dict[str, str], tmp_path: Path) -> None:
    page.write(tmp_path / "deployment", measured(chosen), pictures=False)
    assert values(from_file(tmp_path)) == values(from_command_line(chosen))


def test_a_class_that_is_no_choice(tmp_path: Path) -> None:
    target = "tgi_server.quantize.none.NoQuantize"
    chosen = {"quantize._target_": target, "runner": "tgi_server.rpc.fake.FakeRunner"}
    page.write(tmp_path / "deployment", measured(chosen), pictures=False)
    config = from_file(tmp_path)
    assert (config.quantize._target_, config.runner._target_) == (target, "tgi_server.rpc.fake.FakeRunner")


def test_the_place_and_secrets_are_left_out(tmp_path: Path) -> None:
    place = {
        "port": "3911", "hostname": "127.0.0.1", "shard_uds_path": "/tmp/x", "master_port": "4", "log_level": "debug",
        "json_output": "true", "api_key": "secret", "conversion_cache": "/c", "network": "docker", "telemetry": "json",
        "job": "bench", "job.clients": "8", "deployment": "laptop", "unheard_of": "1",
    }  # fmt: skip
    page.write(tmp_path / "deployment", measured({**place, "max_batch_size": "4"}), pictures=False)
    text = (tmp_path / "deployment/best.yaml").read_text()
    assert yaml.safe_load(text) == {"max_batch_size": 4}
    assert "secret" not in text


def test_it_holds_one_difference_and_tells_what_was_measured(tmp_path: Path) -> None:
    page.write(tmp_path, plausible(), pictures=False)
    text = (tmp_path / "best.yaml").read_text()
    assert text.startswith("# @package _global_\n")
    expected = [{"override /model": "smollm2"}, {"override /quantize": "eetq"}]
    assert yaml.safe_load(text) == {"defaults": expected, "max_waiting_tokens": 60}
    assert f"# Command: {FACTS['Command']}\n" in text and f"# Time: {FACTS['Time']}\n" in text
    assert "# Repeats: 3\n" in text and "tokens/s 655.5 ± 10.1; first token p95 727.0 ± 58.7 ms" in text


def test_what_comes_from_outside_stays_a_comment(tmp_path: Path) -> None:
    made = replace(measured({}), facts={"Model\nport: 1": "a\rhostname: b\u2028trust_remote_code: true\x85x: 1"})
    page.write(tmp_path / "deployment", made, pictures=False)
    assert values(from_file(tmp_path)) == values(compose([]))


def test_it_goes_when_nothing_is_best(tmp_path: Path) -> None:
    assert [path.name for path in page.write(tmp_path, measured({}), pictures=False)] == [
        "report.html",
        "report.md",
        "best.yaml",
    ]
    nothing = replace(measured({}), limits={"ttft_p95": 1e-9})
    assert [path.name for path in page.write(tmp_path, nothing, pictures=False)] == ["report.html", "report.md"]
    assert not (tmp_path / "best.yaml").exists()

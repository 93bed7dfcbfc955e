"""Parts with fields of their own: from every source, with their types and bounds, to the class that has them."""

from __future__ import annotations

import dataclasses
import io
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, Optional

import pytest
import yaml

from tgi_server.config import cli, describe, load, options, parts
from tgi_server.config.base import Part, option, option_list
from tgi_server.config.schema import Launch, Resolved, ServerConfig
from tgi_server.errors import UsageError
from tgi_server.jobs.bench import Bench

CHOICE = "tgi_server.kernels.choice.AttentionChoice"
PROBE = "tgi_server.probe.Probe"


class Kind(Enum):
    plain = "p"
    fancy = "f"


@dataclass
class Probe:
    """A method with a field of every type."""

    bits: int = option(4, "Bits of a weight.", minimum=2, maximum=8)
    scale: float = option(1.0, "A factor.", minimum=0)
    sorted: bool = option(False, "Whether groups are sorted.")
    kind: Kind = option(Kind.plain, "Which kind.")
    other: Optional[Kind] = option(None, "Another kind.")
    size: Optional[int] = option(None, "Weights in a group.")
    skip: list[str] = option_list("Layers that are left alone.")
    note: Optional[str] = option(None, "A text.")
    token: Optional[str] = option(None, "A secret.", secret=True)
    made: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        if self.bits == 5 and self.sorted:
            raise ValueError("5 bits cannot be sorted")

    def reader(self) -> None:
        """As methods have it."""

    def reads(self) -> None:
        """As methods have it."""


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory with choices of the class above, which lies in tgi_server for as long as the test runs."""
    monkeypatch.setitem(sys.modules, "tgi_server.probe", sys.modules[__name__])
    head = "# @package _global_\n"
    for name, text in {
        "quantize/probe": f"_target_: {PROBE}",
        "quantize/three": f"_target_: {PROBE}\nbits: 3",
        "quantize/typo": f"_target_: {PROBE}\nbitz: 3",
        "quantize/wrong": f"_target_: {PROBE}\nbits: many",
        "quantize/commit": f"_target_: {PROBE}\nnote: 5e1234",
        "quantize/open": f"_target_: {PROBE}\nbits: ???",
        "deployment/six": head + "defaults: [override /quantize: three]\nquantize:\n  bits: 6\n  scale: ${port}",
        "deployment/bench": head + "defaults: [override /job: bench]\njob: {clients: 1, new_tokens: 3}",
        "deployment/old": head + "clients: 8",
        "deployment/foreign": head + "quantize: {scale: 4}",
        "deployment/none": head + "quantize: 4",
    }.items():
        path = tmp_path / f"{name}.yaml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    yield tmp_path
    parts.target.cache_clear()


def composed(site: Path, *argv: str, **environ: str) -> Any:
    return load.composition(cli.parse([f"--config-dir={site}", *argv], environ))


def made(site: Path, *argv: str, **environ: str) -> Probe:
    probe = load.instantiate(composed(site, *argv, **environ).config.quantize)
    assert isinstance(probe, Probe)
    return probe


def refusal(site: Path, *argv: str) -> str:
    with pytest.raises(UsageError) as error:
        composed(site, *argv)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_defaults_are_those_of_the_class(site: Path) -> None:
    assert made(site, "quantize=probe") == Probe()
    assert composed(site, "quantize=probe").config.quantize == Part(PROBE)


@pytest.mark.parametrize("values", [
    {"bits=8": 8, "scale=2": 2.0, "sorted=true": True, "kind=fancy": Kind.fancy, "other=fancy": Kind.fancy,
     "size=64": 64, "skip=[a,b]": ["a", "b"], "note='5e1234'": "5e1234"},
    {"bits='8'": 8, "scale=1e-3": 0.001, "sorted=1": True, "other=null": None, "size=null": None, "skip=a": ["a"],
     "note=text": "text"},
])  # fmt: skip
def test_every_type(site: Path, values: dict[str, Any]) -> None:
    probe = made(site, "quantize=probe", *(f"quantize.{override}" for override in values))
    expected = {override.partition("=")[0]: value for override, value in values.items()}
    assert probe == dataclasses.replace(Probe(), **expected)
    assert all(type(getattr(probe, name)) is type(value) for name, value in expected.items())


def test_the_stronger_wins_and_is_named(site: Path) -> None:
    group, deployment = f"group file {site}/quantize/three.yaml", f"deployment file {site}/deployment/six.yaml"
    for argv, bits, origin in (
        (["quantize=three"], 3, group),
        (["--quantize", "three"], 3, group),
        (["deployment=six"], 6, deployment),
        (["deployment=six", "quantize.bits=7"], 7, "command line"),
        (["quantize.bits=7", "quantize.bits=8", "deployment=six"], 8, "command line"),
    ):
        run = composed(site, *argv)
        assert (load.instantiate(run.config.quantize).bits, run.origins["quantize.bits"]) == (bits, origin)
    assert made(site, QUANTIZE="three").bits == 3
    assert made(site, "deployment=six", "port=9").scale == 9.0
    assert made(site, "quantize=probe", QUANTIZE_BITS="7", BITS="7").bits == 4


@pytest.mark.parametrize(("argv", "words"), [
    (["quantize=probe", "quantize.bitz=4"],
     "unknown option quantize.bitz (did you mean quantize.bits?) (command line)"),
    (["quantize=typo"],
     "unknown option quantize.bitz (did you mean quantize.bits?) (group file SITE/quantize/typo.yaml)"),
    (["quantize=wrong"], "quantize.bits=many: expected a whole number (group file SITE/quantize/wrong.yaml)"),
    (["quantize=probe", "quantize.bits=x"], "quantize.bits=x: expected a whole number (command line)"),
    (["quantize=probe", "quantize.bits=4.5"], "quantize.bits=4.5: expected a whole number (command line)"),
    (["quantize=probe", "quantize.bits=null"], "quantize.bits=null: expected a whole number (command line)"),
    (["quantize=probe", "quantize.bits=9"], "quantize.bits=9: must be at most 8 (command line)"),
    (["quantize=probe", "quantize.scale=nan"], "quantize.scale=nan: must be finite (command line)"),
    (["quantize=probe", "quantize.sorted=yes"], "quantize.sorted=yes: expected true or false (command line)"),
    (["quantize=probe", "quantize.kind=x"], "quantize.kind=x: expected one of plain, fancy (command line)"),
    (["quantize=probe", "quantize.note=''"], "quantize.note=: may not be empty (command line)"),
    (["quantize=probe", "quantize.made=1"], "unknown option quantize.made (command line)"),
    (["quantize=probe", "quantize.skip={a:1}"], "quantize.skip={'a': 1}: expected a list of texts (command line)"),
    (["quantize=probe", "quantize.bits=${port}", "port=9"], "quantize.bits=9: must be at most 8 (command line)"),
    (["quantize=probe", "quantize.bits=5", "quantize.sorted=true"], "quantize: 5 bits cannot be sorted (command line)"),
    (["quantize=commit"],
     "quantize.note=inf: YAML reads it as a number; put it in quotes (group file SITE/quantize/commit.yaml)"),
    (["quantize=open"],
     "quantize.bits=???: stands for a value that is still to be given (group file SITE/quantize/open.yaml)"),
    (["deployment=six", "quantize=none"],
     "quantize.bits=6: only quantize=awq or quantize=gptq uses this (deployment file SITE/deployment/six.yaml); "
     "unknown option quantize.scale (deployment file SITE/deployment/six.yaml)"),
    (["deployment=foreign"], "unknown option quantize.scale (deployment file SITE/deployment/foreign.yaml)"),
    (["quantize._target_=tgi_server.nothing.X"],
     "quantize._target_=tgi_server.nothing.X: No module named 'tgi_server.nothing' (command line)"),
    (["quantize._target_=os.system"],
     "quantize._target_=os.system: only parts of tgi_server can be named (command line)"),
    (["+runner.steps=3"], "unknown option runner.steps (command line)"),
    (["+runner.fields={steps:3}"], "unknown option runner.fields (command line)"),
    (["runner._target_=os.system"], "runner._target_=os.system: only parts of tgi_server can be named (command line)"),
    (["deployment=old"], "unknown option clients (did you mean job.clients?)"),
    (["clients=3"], "clients=3: only job=bench or job=simulate or job=tune uses this (command line)"),
    (["--clients", "3"], "clients=3: only job=bench or job=simulate or job=tune uses this (--clients)"),
    (["job.clients=3"], "clients=3: only job=bench or job=simulate or job=tune uses this (command line)"),
    (["deployment=bench", "job=serve"],
     "clients=1: only job=bench or job=simulate or job=tune uses this (deployment file SITE/deployment/bench.yaml); "
     "new_tokens=3: only job=bench or job=simulate or job=tune uses this (deployment file SITE/deployment/bench.yaml)"),
    (["job=bench", "new_tokens=x"], "new_tokens=x: expected a whole number, or null (command line)"),
    (["job=bench", "--new-tokens=0"], "new_tokens=0: must be at least 1 (--new-tokens)"),
    (["job=bench", "job.new_token=4"], "unknown option job.new_token (did you mean job.new_tokens?) (command line)"),
    (["job=bench", "--client", "3"], "unknown option --client (did you mean --clients?)"),
])  # fmt: skip
def test_refusals_name_field_and_source(site: Path, argv: list[str], words: str) -> None:
    assert words.replace("SITE", str(site)) in refusal(site, *argv)


def test_a_part_that_is_none_is_refused(site: Path) -> None:
    assert "quantize" in refusal(site, "deployment=none")
    assert "names its _target_" in refusal(site, "~quantize._target_")


def test_sweeps(site: Path) -> None:
    arguments = cli.parse([f"--config-dir={site}", "-m", "quantize=none,probe", "attention.library=triton,torch"], {})
    runs = [load.composition(run).config for run in load.combinations(arguments)]
    assert [(run.quantize._target_.split(".")[-1], run.attention.fields["library"]) for run in runs] == [
        ("NoQuantize", "triton"), ("NoQuantize", "torch"), ("Probe", "triton"), ("Probe", "torch")
    ]  # fmt: skip
    arguments = cli.parse([f"--config-dir={site}", "-m", "quantize=probe", "quantize.bits=4,8"], {})
    configs = [load.composition(run).config for run in load.combinations(arguments)]
    assert describe.varied(configs) == [["quantize.bits=4"], ["quantize.bits=8"]]


def test_shown_with_fields_and_sources(site: Path) -> None:
    run = composed(site, "deployment=six", "quantize.kind=fancy", "quantize.token=s3cret", "attention=torch")
    text = load.as_yaml(run)
    assert f"\n  bits: 6  # deployment file {site}/deployment/six.yaml\n" in text
    assert "\n  kind: fancy  # command line\n" in text
    assert "\n  scale: ${port}  # deployment file" in text
    assert "\n  library: torch  # group file conf/attention/torch.yaml\n" in text
    assert "s3cret" not in text and "\n  token: '***'  # command line\n" in text
    shown = yaml.safe_load(text)["quantize"]
    assert list(shown) == ["_target_", *(name for name in Probe.__dataclass_fields__ if name != "made")]
    assert yaml.safe_load(load.as_yaml(run, resolve=True))["quantize"]["scale"] == 3000.0
    (site / "again.yaml").write_text("defaults: [config, _self_]\n" + load.as_yaml(run).replace("'***'", "null"))
    again = load.compose([f"quantize._target_={PROBE}"], str(site), "again")
    assert dataclasses.replace(load.instantiate(again.quantize), token="s3cret") == load.instantiate(
        run.config.quantize
    )


def test_told_at_the_start(site: Path) -> None:
    argv = ["quantize=three", "quantize.kind=fancy", "quantize.token=s3cret", "job=bench", "--clients=1,8"]
    run = composed(site, *argv)
    assert describe.changed(run.config, run.origins) == [
        f"quantize={PROBE} (command line)",
        f"quantize.bits=3 (group file {site}/quantize/three.yaml)",
        "quantize.kind=fancy (command line)",
        "quantize.token=*** (command line)",
        "job=tgi_server.jobs.bench.Bench (command line)",
        "clients=1,8 (--clients)",
    ]


def test_the_way_to_a_child_keeps_the_fields(site: Path) -> None:
    config = composed(
        site, "quantize=probe", "quantize.kind=fancy", "quantize.skip=[a]", "quantize.note='\\${x}'"
    ).config
    read = load.read(io.StringIO(load.dump(Launch(config, Resolved()))))
    assert read.config == config
    assert load.instantiate(read.config.quantize) == Probe(kind=Kind.fancy, skip=["a"], note="${x}")


def test_the_job_in_all_spellings() -> None:
    expected = Bench(clients="1,8", new_tokens=5, request_rate=2.0, duration=None)
    for argv in (
        ["clients=1,8", "new_tokens=5", "request_rate=2"],
        ["--clients", "1,8", "--new-tokens=5", "--request-rate", "2", "duration=null"],
        ["job.clients=1,8", "job.new_tokens=5", "job.request_rate=2"],
        ["job.clients=3", "clients=1,8", "job.new_tokens=9", "--new-tokens", "5", "++request_rate=2"],
    ):
        assert load.instantiate(load.composition(cli.parse(["job=bench", *argv], {})).config.job) == expected


def test_a_job_out_of_a_file(site: Path) -> None:
    job = composed(site, "deployment=bench", "new_tokens=4").config.job
    assert job == Part("tgi_server.jobs.bench.Bench", {"clients": "1", "new_tokens": 4})


@pytest.mark.parametrize("text", ["[1, 8]", "a=b", "5e1234", "x{y}", "${x}", "it's", "a\nb", "~/m", "1,8"])
def test_texts_of_the_job_arrive_unharmed(text: str) -> None:
    flag = cli.parse(["job=bench", "--prompts", text], {})
    assert load.composition(flag).config.job.fields == {"prompts": text}
    if "${" not in text:
        assert cli.parse(["job=bench", f"prompts={text}"], {}).overrides == flag.overrides
        assert cli.parse(["job=bench", f"job.prompts={text}"], {}).overrides == flag.overrides


def test_interpolation_knows_the_short_names() -> None:
    arguments = cli.parse(["-m", "job=bench", "new_tokens=2,3", "port=9", "output=${new_tokens}-${port}-${seed}"], {})
    outputs = [load.composition(run).config.job.fields["output"] for run in load.combinations(arguments)]
    assert outputs == ["2-9-0", "3-9-0"]


def test_whom_options_concern() -> None:
    assert options.concerns("max_waiting_tokens") == ("router",)
    assert options.concerns("max_total_tokens") == ("shard", "router")
    assert options.concerns("attention.library") == options.concerns("quantize") == ("shard",)
    assert options.concerns("job.clients") == ("job",)
    for name in [*options.NAMES, "attention.library", *(f"job.{name}" for name in parts.known("job"))]:
        assert set(options.concerns(name)) <= {"launcher", "shard", "router", "job"} and options.concerns(name)


def test_the_schema_knows_no_class_of_a_part() -> None:
    """They are imported once something asks about them."""
    ours = "{'tgi_server.jobs.bench', 'tgi_server.quantize.none', 'tgi_server.kernels.choice', 'torch'}"
    code = f"import sys, tgi_server.config.load; print({ours} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"


def test_the_default_parts_need_no_fields() -> None:
    assert all(getattr(ServerConfig(), name).fields == {} for name in parts.PARTS)


def test_another_kind_of_part_is_refused(site: Path) -> None:
    with pytest.raises(UsageError, match=r"quantize.eetq.Eetq: it is no such part, it has"):
        composed(site, "attention._target_=tgi_server.quantize.eetq.Eetq")


@pytest.mark.parametrize("argv", [
    ["slo.ttft_p95_ms=500"], ["job.slo.ttft_p95_ms=500"], ["slo_ttft_p95_ms=500"], ["job.slo_ttft_p95_ms=500"],
    ["--slo-ttft-p95-ms", "500"], ["--slo-ttft-p95-ms=500"], ["+slo.ttft_p95_ms=500"],
    ["slo.itl_p95_ms=500", "slo.ttft_p95_ms=${slo.itl_p95_ms}"],
])  # fmt: skip
def test_fields_of_the_job_can_have_dots(argv: list[str]) -> None:
    arguments = cli.parse(["job=tune", *argv], {})
    run = load.composition(arguments)
    assert load.instantiate(run.config.job).slo_ttft_p95_ms == 500
    assert run.origins["job.slo_ttft_p95_ms"] in ("command line", "--slo-ttft-p95-ms")


def test_dots_in_sweeps_and_deployments(site: Path) -> None:
    arguments = cli.parse(["-m", "job=tune", "slo.ttft_p95_ms=400,500", "output=a${slo.ttft_p95_ms}"], {})
    jobs = [load.instantiate(load.composition(run).config.job) for run in load.combinations(arguments)]
    assert [(job.slo_ttft_p95_ms, job.output) for job in jobs] == [(400, "a400.0"), (500, "a500.0")]


@pytest.mark.parametrize(("argv", "words"), [
    (["slo.ttft_p95=5"], "unknown option slo.ttft_p95 (did you mean slo_ttft_p95_ms?) (command line)"),
    (["--slo.ttft_p95_ms=5"], "unknown option --slo.ttft_p95_ms (did you mean --slo-ttft-p95-ms?)"),
    (["slo.ttft_p95_ms=x"], "slo_ttft_p95_ms=x: expected a number, or null (command line)"),
    (["slo.ttft_p95_ms=0"], "slo_ttft_p95_ms=0.0: must be at least 0.1 (command line)"),
    (["job=bench", "slo.ttft_p95_ms=5"], "slo_ttft_p95_ms=5: only job=tune uses this (command line)"),
    (["other.name=5"], "unknown option other.name (command line)"),
])  # fmt: skip
def test_refusals_of_names_with_dots(argv: list[str], words: str) -> None:
    with pytest.raises(UsageError) as refused:
        load.composition(cli.parse(["job=tune", *argv], {}))
    assert words in str(refused.value)

"""From options to numbers, with shards that are made up and a run that nobody made."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from tests.unit.simulate.synthetic import INFO, SyntheticShards
from tgi_server.bench import prompts
from tgi_server.bench.http import BenchError
from tgi_server.bench.options import BenchOptions
from tgi_server.bench.workload import Workload
from tgi_server.config import cli, load
from tgi_server.errors import ConfigError, UsageError
from tgi_server.jobs.base import Context, Task
from tgi_server.jobs.simulate import Simulate
from tgi_server.launcher.supervise import StopSignals
from tgi_server.simulate import main
from tgi_server.simulate.costs import Shape
from tgi_server.simulate.findings import Findings
from tgi_server.simulate.kept import Learned, place
from tgi_server.simulate.learn import Observed
from tgi_server.simulate.predict import Predictor, until
from tgi_server.simulate.probe import Prober

STEP = 0.02


def seconds(shape: Shape) -> float:
    """Of a step: as many tokens as there may be take no longer."""
    return STEP


class FakeStage:
    """Measures a machine on which each step takes as long as any other."""

    def __init__(self, model_dir: Path) -> None:
        self.asked: list[tuple[str, ...]] = []
        self._model_dir = model_dir

    def ask_shards(self, run: Any, module: str, *arguments: str, report: Callable[[str, float], None]) -> str:
        self.asked.append((module, *arguments))
        prober = Prober(SyntheticShards(seconds), run.config, INFO)
        found = asyncio.run(prober.measure(0.01, report))
        return Findings(found.info, found.samples, found.costs, str(self._model_dir)).to_json()

    def beside(self, run: Any, work: Callable[[], Any], log: Path | None = None) -> list[Observed]:
        return [Observed(clients, 0.05, 0.021) for clients in (1, 8)]


@pytest.fixture
def stage(tmp_path: Path) -> FakeStage:
    model = tmp_path / "model"
    model.mkdir()
    tokenizer = Tokenizer(WordLevel({word: number for number, word in enumerate(dict.fromkeys(prompts.WORDS))}, "the"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.save(str(model / "tokenizer.json"))
    return FakeStage(model)


def task(*arguments: str) -> Task:
    parsed = cli.parse(["job=simulate", "max_concurrent_requests=16", *arguments], {})
    run = load.composition(parsed)
    return Task(run, load.instantiate(run.config.job), parsed)


def work(**options: Any) -> Workload:
    return Workload.of(BenchOptions(**{"clients": "4", "requests": 12, "new_tokens": 10, **options}))


def silent(stage: str, part: float) -> None:
    pass


def test_a_prediction(stage: FakeStage, tmp_path: Path) -> None:
    predictor = Predictor(stage, tmp_path / "kept", seconds=7.0)  # type: ignore[arg-type]  # as far as it is used
    predictor.learn(task(), silent)
    assert stage.asked == [("tgi_server.simulate.probe", "7.0")]
    summary = predictor.predict(task(), work(prompt_tokens="30"))
    assert (summary.clients, summary.requests, summary.failed) == (4, 12, 0)
    assert (summary.prompt_tokens, summary.new_tokens) == (30.0, 10.0)
    assert summary.between_tokens.p50 == pytest.approx(0.021, rel=0.05)
    assert summary == predictor.predict(task(), work(prompt_tokens="30")), "nothing is left to chance"


def test_a_stop_ends_a_simulation(stage: FakeStage, tmp_path: Path) -> None:
    stop = StopSignals()
    predictor = Predictor(stage, tmp_path, look=until(stop))  # type: ignore[arg-type]  # as above
    predictor.learn(task(), silent)
    predictor.predict(task(), work())
    stop.request()
    with pytest.raises(BenchError, match="stopped before everything was simulated"):
        predictor.predict(task(), work())


def test_what_steps_cost_is_measured_once_for_options_of_shards(stage: FakeStage, tmp_path: Path) -> None:
    first = Predictor(stage, tmp_path)  # type: ignore[arg-type]  # as above
    for argument in ("max_waiting_tokens=3", "port=5000", "prefill_chunk_tokens=64", "max_concurrent_requests=9"):
        first.learn(task(argument), silent)
    assert len(stage.asked) == 2
    assert len(list(tmp_path.glob("costs-*.json"))) == 2
    again = Predictor(stage, tmp_path)  # type: ignore[arg-type]  # as above
    again.learn(task("max_waiting_tokens=9"), silent)
    assert len(stage.asked) == 2
    assert again.predict(task(), work()) == first.predict(task(), work())


def test_the_rule_of_the_scheduler_shows(stage: FakeStage, tmp_path: Path) -> None:
    predictor = Predictor(stage, tmp_path)  # type: ignore[arg-type]  # as above
    patient, eager = task("max_waiting_tokens=40"), task("max_waiting_tokens=1")
    predictor.learn(patient, silent)
    load = work(clients="16", request_rate=8.0, requests=64, new_tokens=40, prompt_tokens="8-64")
    assert predictor.predict(eager, load).first_token.p95 < predictor.predict(patient, load).first_token.p95


def test_a_warm_up_counts_where_prompts_come_again(stage: FakeStage, tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text(" ".join(prompts.WORDS * 6))
    predictor = Predictor(stage, tmp_path)  # type: ignore[arg-type]  # as above
    own = task("prefill_chunk_tokens=64")
    predictor.learn(own, silent)
    cold, warm = (predictor.predict(own, work(prompts=str(file), clients="1", requests=1, warmup=n)) for n in (0, 1))
    assert cold.first_token.p50 > warm.first_token.p50 + 10 * STEP


def test_a_file_of_other_options_or_of_nothing_is_refused(stage: FakeStage, tmp_path: Path) -> None:
    Predictor(stage, tmp_path).learn(task(), silent)  # type: ignore[arg-type]  # as above
    path = place(tmp_path, task().run.config)
    assert Learned.read(path, task("max_waiting_tokens=1").run.config).overheads
    assert Learned.read(path, task("prefill_chunk_tokens=64").run.config).overheads
    with pytest.raises(ConfigError, match=r"measured with max_total_tokens=2048, not 1500"):
        Learned.read(path, task("max_total_tokens=1500").run.config)
    path.write_text("{}")
    with pytest.raises(ConfigError, match="not a file of costs"):
        Learned.read(path, task().run.config)
    with pytest.raises(ConfigError, match="No such file"):
        Learned.read(tmp_path / "none.json", task().run.config)


@pytest.mark.parametrize(("arguments", "reason"), [
    (["target=http://127.0.0.1:1"], "only the configured server"),
    (["speculate=3"], "speculate=3: cannot be simulated"),
    (["max_total_tokens=auto"], "max_total_tokens=auto: cannot be simulated"),
    (['response_format={"type": "regex", "value": "a*"}'], "response_format: cannot be simulated"),
    (["port=0"], "port=0: to be measured"), (["clients=0"], "expected a number"),
    (["costs=/nowhere/costs.json"], "costs=/nowhere/costs.json: cannot be"),
])  # fmt: skip
def test_what_cannot_be_simulated_is_refused(arguments: list[str], reason: str) -> None:
    quoted = [word if "{" not in word else word.replace("{", "'{").replace("}", "}'") for word in arguments]
    refused = task(*quoted)
    with pytest.raises(UsageError, match=reason):
        refused.job.check(refused.run.config, refused.run.origins)


def test_the_job(stage: FakeStage, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    costs, output = tmp_path / "costs.json", tmp_path / "out.json"
    asked = [f"costs={costs}", "clients=1,4", "requests=8", "new_tokens=9", "prompt_tokens=20", "log_level=error"]
    one = task(*asked, f"output={output}")
    assert isinstance(one.job, Simulate) and one.job.starts_server
    context = Context(stage, SimpleNamespace(requested=False), main.run, "")  # type: ignore[arg-type]  # as above
    Simulate.perform([one], context)
    said = capsys.readouterr().out.splitlines()
    assert said[0].split()[:3] == ["clients", "requests", "failed"]
    assert [line.split()[:5] for line in said[1:3]] == [["1", "8", "0", "20", "9"], ["4", "8", "0", "20", "9"]]
    assert "times faster than the clock" in said[-1]
    assert '"simulated":true' in output.read_text()
    assert not one.job.starts_server and len(stage.asked) == 1
    Simulate.perform([task(*asked, f"max_waiting_tokens={most}") for most in (1, 30)], context)
    said = capsys.readouterr().out.splitlines()
    assert len(stage.asked) == 1
    assert [line.split()[:2] for line in said[1:5]] == [
        ["max_waiting_tokens=1", "1"], ["max_waiting_tokens=1", "4"], ["max_waiting_tokens=30", "1"],
        ["max_waiting_tokens=30", "4"],
    ]  # fmt: skip


def test_the_job_with_replicas(stage: FakeStage, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = [f"costs={tmp_path}/costs.json", "clients=2", "requests=6", "per_replica=true", "traffic=agent"]
    context = Context(stage, SimpleNamespace(requested=False), main.run, "")  # type: ignore[arg-type]  # as above
    points = [task(*asked, "log_level=error", f"replicas={count}", "routing=round_robin") for count in (1, 3)]
    Simulate.perform(points, context)
    head, one, three, *_ = capsys.readouterr().out.splitlines()
    assert head.split()[-5:] == ["cached", "%", "requests", "a", "replica"]
    assert (one.split()[:3], one.split()[-3:]) == (["replicas=1", "2", "6"], ["6", "to", "6"])
    assert (three.split()[:3], three.split()[-3:]) == (["replicas=3", "6", "18"], ["6", "to", "6"])

"""Sweepers and launchers of Hydra's choose and run the points of a sweep."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from tgi_server.config import cli, hydra_sweep, load
from tgi_server.config.arguments import Arguments
from tgi_server.errors import UsageError

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


@dataclass(frozen=True)
class Noted:
    """A loss that tells in a file where and with what it was called: launchers may copy it to other processes."""

    file: Path

    def __call__(self, arguments: Arguments) -> float:
        config = load.composition(arguments).config
        chosen = f"{config.max_waiting_tokens} {config.quantize._target_.rpartition('.')[2]}"
        with self.file.open("a") as file:
            file.write(f"{os.getpid()} {config.model_id} {config.job.fields.get('clients')} {chosen}\n")
        return float(abs(config.max_waiting_tokens - 37))

    @property
    def calls(self) -> list[list[str]]:
        return [line.split() for line in self.file.read_text().splitlines()]


def swept(tmp_path: Path, *argv: str) -> Noted:
    """The calls that came of `-m argv`."""
    arguments = cli.parse(["-m", "job=bench", *argv], {})
    arguments.check()
    noted = Noted(tmp_path / "calls")
    hydra_sweep.run(arguments, tmp_path / "place", noted)
    return noted


def test_optuna_looks_for_the_least_loss(tmp_path: Path) -> None:
    argv = ["hydra/sweeper=optuna", "hydra.sweeper.n_trials=8", "hydra.sweeper.sampler.seed=1"]
    noted = swept(tmp_path, *argv, "max_waiting_tokens=range(5,60)", "quantize=none,eetq", "model_id='a=b, c'")
    assert len(noted.calls) == 8
    assert {tuple(call[1:3]) for call in noted.calls} == {("a=b,", "c")}  # what is fixed stays as it was written
    best = min(abs(int(call[-2]) - 37) for call in noted.calls)
    result = yaml.safe_load((tmp_path / "place" / "optimization_results.yaml").read_text())
    assert result["best_value"] == best
    assert 5 <= result["best_params"]["max_waiting_tokens"] < 60


def test_the_fields_of_the_job_are_chosen_like_options(tmp_path: Path) -> None:
    noted = swept(tmp_path, "hydra/sweeper=optuna", "hydra.sweeper.n_trials=6", "clients=choice(3,4)")
    assert {call[2] for call in noted.calls} <= {"3", "4"}
    assert len(noted.calls) == 6


def test_joblib_runs_points_in_other_processes(tmp_path: Path) -> None:
    noted = swept(tmp_path, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "max_waiting_tokens=5,10")
    assert sorted(call[-2] for call in noted.calls) == ["10", "5"]
    assert str(os.getpid()) not in {call[0] for call in noted.calls}


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["hydra/sweeper=nevergrad_2"], "Could not find 'hydra/sweeper/nevergrad_2'"),
        (["hydra/sweeper=optuna", "hydra.sweeper.colour=red"], "colour"),
    ],
)
def test_plugins_that_cannot_be_had(tmp_path: Path, argv: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        swept(tmp_path, *argv, "max_waiting_tokens=1,2")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["hydra/sweeper=optuna"], "give -m"),
        (["-m", "hydra.job.chdir=true"], "no settings here but its sweeper and launcher"),
        (["hydra.run.dir=x"], "no settings here"),
    ],
)
def test_other_settings_of_hydra_are_refused(argv: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        cli.parse(argv, {}).check()

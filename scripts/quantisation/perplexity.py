"""Perplexity on a fixed text: the server is asked for the log-probabilities of prompts."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
import venv
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import httpx
import tokenizers

from scripts.quantisation.contenders import Contender
from scripts.quantisation.models import ROOT, Model
from scripts.quantisation.servers import ours, running

TEXT = Path(__file__).parent / "text.txt"
"""Lewis Carroll, Alice's Adventures in Wonderland (1865), chapters 5 to 8."""
WINDOW = 512
"""Tokens that are scored together; of each window all but the first."""
BITSANDBYTES = "bitsandbytes>=0.50,<0.51"

Windows = list[list[int]]


def windows(model: Model, text: str | None = None) -> Windows:
    """The text's tokens in runs of `WINDOW`; what is left over at its end is not used."""
    file = model.directory / "tokenizer.json"
    ids = tokenizers.Tokenizer.from_file(str(file)).encode(text or TEXT.read_text(), add_special_tokens=False).ids
    return [ids[at : at + WINDOW] for at in range(0, len(ids) - WINDOW + 1, WINDOW)]


def perplexity(scores: Sequence[float]) -> float:
    """Of the log-probabilities of all tokens."""
    return math.exp(-math.fsum(scores) / len(scores))


def served(model: Model, contender: Contender) -> float:
    """The perplexity that a server of ours gives to the text."""
    server = ours(model, contender)
    with running(server):
        return perplexity([score for window in windows(model) for score in _scores(server.client, window)])


def _scores(client: httpx.Client, window: Sequence[int]) -> list[float]:
    """Log-probabilities of the tokens of a prompt after the first."""
    body = {"prompt": window, "max_tokens": 0, "echo": True, "logprobs": 0}
    answer = client.post("/v1/completions", json=body)
    answer.raise_for_status()
    scores: list[float] = answer.json()["choices"][0]["logprobs"]["token_logprobs"][1:]
    assert len(scores) == len(window) - 1
    return scores


def by_bitsandbytes(model: Model, python: Path) -> dict[str, float]:
    """The same by transformers with weights that the bitsandbytes package quantised: of int8, nf4, fp4, and none."""
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(windows(model), file)
        file.flush()
        command = [python, ROOT / "scripts/quantisation/bitsandbytes_reference.py", model.directory, file.name]
        # as the launcher has it for shards: idle threads must not hold a core
        environ = {"GOMP_SPINCOUNT": "2000", **os.environ}
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environ)
    scores: dict[str, list[float]] = json.loads(done.stdout)
    return {kind: perplexity(each) for kind, each in scores.items()}


def python_with_bitsandbytes(given: Path | None, work: Path) -> Path:
    """A Python that can import the package: the one given, this one, or that of an environment made for it.

    The environment takes everything else, torch and transformers above all, from this one.
    """
    if given is not None or find_spec("bitsandbytes"):
        return given or Path(sys.executable)
    place = work / "bitsandbytes"
    python = place / "bin/python"
    if not (place / "made").exists():
        venv.create(place, with_pip=True)
        (site,) = place.glob("lib/python*/site-packages")
        (site / "tgi_server.pth").write_text("\n".join(path for path in sys.path if path.endswith("-packages")))
        subprocess.run(
            [python, "-m", "pip", "install", "-qq", "--no-deps", BITSANDBYTES], check=True, stdout=sys.stderr
        )
        (place / "made").touch()
    return Path(os.path.abspath(python))  # noqa: PTH100  (a resolved link would leave the environment)

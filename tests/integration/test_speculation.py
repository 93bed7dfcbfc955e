"""Texts with guesses are the texts without: every drafter and width over the real model."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from llguidance import LLMatcher
from tokenizers import Tokenizer

from tests.integration import reference
from tests.integration.server import Server
from tgi_server.batching.scheduler import Scheduler
from tgi_server.batching.sequence import Sequence as Request
from tgi_server.cache.memory import allocate
from tgi_server.config.schema import BatchingOptions
from tgi_server.kernels.row import Needs
from tgi_server.layers.parallel import Group
from tgi_server.models.families import read_spec
from tgi_server.models.load import load_model
from tgi_server.quantize.none import NoQuantize
from tgi_server.rpc.fake import FAKE_INFO
from tgi_server.shard.batch import BatchState
from tgi_server.shard.drafting import Drafting
from tgi_server.shard.graphs import best_forward
from tgi_server.shard.guides import Guides
from tgi_server.shard.sampler import Watermark
from tgi_server.shard.step import Stepper
from tgi_server.speculate.base import Speculation, Surroundings
from tgi_server.speculate.costs import Allotment, Costs
from tgi_server.speculate.ngram import NGram
from tgi_server.speculate.suffix import Suffix
from tgi_server.types import (
    CacheKind,
    GenerationRequest,
    GroupInfo,
    Guide,
    Plan,
    SamplingParams,
    StoppingParams,
)

CPU = torch.device("cpu")
BLOCKS = 600
LONGEST = 1024
CODE = (Path(__file__).parents[2] / "tgi_server" / "engine" / "stopping.py").read_text()[:900]
SCHEMA = {
    "type": "array", "minItems": 3, "maxItems": 3,
    "items": {
        "type": "object", "required": ["name", "age"], "additionalProperties": False,
        "properties": {"name": {"type": "string", "maxLength": 12}, "age": {"type": "integer"}},
    },
}  # fmt: skip
ROWS_ARE_FREE = Costs((1, 128), (1.0, 1.0))
"""So every guess that may be right is made."""


class Model:
    """The demo model in float32, with a drafter of choice."""

    def __init__(self) -> None:
        self._directory = reference.model_directory()
        self._spec = read_spec(self._directory)
        self._needs = Needs(device=CPU, dtype=torch.float32)
        self._model = load_model(self._directory, self._spec, self._needs, LONGEST, NoQuantize())
        caches = allocate(self._spec, [BLOCKS] * len(self._spec.groups), 1, torch.float32, CPU)
        self._run = best_forward(self._model, caches, self._spec, BatchingOptions(max_total_tokens=LONGEST))
        self.tokenizer: Tokenizer = Tokenizer.from_file(str(self._directory / "tokenizer.json"))
        self.counts: list[int] = []
        self.guessed = 0

    def texts(
        self, requests: Sequence[GenerationRequest], part: Speculation | None, most: int, **options: Any
    ) -> list[list[int]]:
        """The tokens of each request; all arrive at once."""
        spec = self._spec
        guides = Guides(self._directory / "tokenizer.json", spec.vocab_size, spec.eos_token_ids)
        drafting = None
        if part is not None:
            drafter = part.drafter(Surroundings(self._model, self._spec, Group(), self._needs))
            drafting = Drafting(drafter, Allotment(ROWS_ARE_FREE, most))
        info = FAKE_INFO.__class__(
            dtype="float32", device_type="cpu", groups=[GroupInfo(CacheKind.FULL, None, BLOCKS)], efficient_tokens=256,
            vocab_size=spec.vocab_size, eos_token_ids=list(spec.eos_token_ids), draft_width=most,
        )  # fmt: skip
        state = BatchState(LONGEST + most, CPU, spec.groups)
        stepper = Stepper(state, self._run, self._model.logits, guides, Watermark(), Group(), self._needs, drafting)
        return self._serve(Scheduler(BatchingOptions(**options), info), stepper, requests)

    def _serve(self, scheduler: Scheduler, stepper: Stepper, requests: Sequence[GenerationRequest]) -> list[list[int]]:
        texts: list[list[int]] = [[] for _ in requests]
        for id, request in enumerate(requests):
            scheduler.add(Request(id, request))
        flight: deque[Plan] = deque()
        self.counts, self.guessed = [], 0
        while True:
            while len(flight) < 2 and (plan := scheduler.plan(0.0)):
                flight.append(plan)
            if not flight:
                return texts
            outcome = stepper.step(flight.popleft())
            assert not outcome.failed, outcome.failed
            self.counts += outcome.counts
            self.guessed += sum(outcome.guessed.values())
            for progress in scheduler.commit(outcome, 0.0):
                texts[progress.sequence.id] += progress.tokens

    def request(self, prompt: str, new: int, **sampling: Any) -> GenerationRequest:
        ids = self.tokenizer.encode(prompt).ids
        stopping = StoppingParams(max_new_tokens=new, ignore_eos="guide" not in sampling)
        return GenerationRequest(prompt_ids=ids, sampling=SamplingParams(**sampling), stopping=stopping)


@cache
def model() -> Model:
    return Model()


def requests() -> list[GenerationRequest]:
    """Greedy and sampled ones, with everything that looks at the tokens before."""
    made, grammar = model().request, LLMatcher.grammar_from_json_schema(json.dumps(SCHEMA))
    return [
        made(f"{CODE}\n\n# The same once more:\n{CODE[:150]}", 48),
        made(f"{CODE}\n\n# The same once more:\n{CODE[:150]}", 40, repetition_penalty=1.1),
        made(
            '{"id": 1, "name": "a", "tags": []}\n{"id": 2, "name": "b", "tags": []}\n{"id": 3,',
            40,
            frequency_penalty=0.3,
        ),
        made("1, 2, 3, 4, 5,", 40, presence_penalty=0.5, logit_bias={3: 2.0}),
        made("The capital of France is", 40),
        made("word word word word", 40, do_sample=True, temperature=0.7, top_p=0.9, seed=3),
        made("Row, row, row your boat", 40, do_sample=True, watermark=True, top_k=20, seed=4, repetition_penalty=1.05),
        made("People as JSON: ", 90, guide=Guide(grammar, 90)),
        made("People as JSON: ", 90, guide=Guide(grammar, 90), do_sample=True, seed=9, top_n_tokens=2),
    ]


@cache
def plain_texts() -> list[list[int]]:
    return model().texts(requests(), None, 0)


@pytest.mark.parametrize("most", range(1, 9))
@pytest.mark.parametrize("part", [NGram(), Suffix()], ids=["ngram", "suffix"])
def test_texts_are_those_without_guesses(part: Speculation, most: int) -> None:
    expected = plain_texts()
    assert model().texts(requests(), part, most) == expected
    assert model().guessed > 50 and max(model().counts) > 1, "some were made, and some were right"
    assert max(model().counts) <= 1 + most


@pytest.mark.parametrize(
    "options", [{"prefill_chunk_tokens": 48}, {"prefix_caching": False}, {"max_batch_size": 3}], ids=str
)
def test_texts_do_not_depend_on_how_requests_share_steps(options: dict[str, Any]) -> None:
    expected = plain_texts()
    assert model().texts(requests(), Suffix(), 4, **options) == expected
    assert model().guessed > 50


def test_every_text_alone_is_the_same() -> None:
    for request, text in [*zip(requests(), plain_texts(), strict=True)][::2]:
        assert model().texts([request], Suffix(), 5) == [text]


@pytest.fixture(scope="module")
def served() -> Iterator[Server]:
    with Server("model=smollm2", "dtype=float32", "speculate=4", "speculation=suffix") as server:
        yield server


def test_a_server_guesses_and_says_so(served: Server, float32_server: Server) -> None:
    prompt = f"{CODE}\n\n# The same once more:\n{CODE[:150]}"
    body = {"inputs": prompt, "parameters": {"max_new_tokens": 60, "stop": ['    """\n\n', "nothing"], "details": True}}
    first, second = (server.client.post("/generate", json=body).json() for server in (served, float32_server))
    assert first["generated_text"] == second["generated_text"]
    ids = [[token["id"] for token in answer["details"]["tokens"]] for answer in (first, second)]
    assert ids[0] == ids[1]
    logprobs = [[token["logprob"] for token in answer["details"]["tokens"]] for answer in (first, second)]
    assert logprobs[0] == pytest.approx(logprobs[1], abs=1e-3)
    assert "ms of a step by its rows" in served.output
    metrics = served.client.get("/metrics").text
    assert "tgi_request_skipped_tokens_count" in metrics
    assert 'tgi_speculate_guessed_tokens{position="1"}' in metrics
    assert 'tgi_speculate_accepted_tokens{position="1"}' in metrics


@pytest.mark.parametrize(("longest", "told"), [(16, "ms of a step by its rows"), (8, "speculate has no effect with")])
def test_more_guesses_than_a_text_may_have_tokens(longest: int, told: str) -> None:
    options = [f"max_total_tokens={longest}", f"max_input_length={longest - 1}"]
    with Server("model=smollm2", "dtype=float32", "speculate=64", *options) as server:
        assert server.generate("a b a b", max_new_tokens=4)["generated_text"] == " c d e f"
        assert told in server.output

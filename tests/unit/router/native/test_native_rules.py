import threading
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from tokenizers import Tokenizer

from tests.router_app import EOS_ID, TOKENIZER
from tgi_server.errors import ValidationError
from tgi_server.router.http.limits import Limits, Prepared, tokenise
from tgi_server.router.native import rules
from tgi_server.router.native.requests import GenerateBody, Parameters
from tgi_server.types import FinishReason, SamplingParams, StoppingParams

LIMITS = Limits(
    max_input_length=20,
    max_total_tokens=30,
    max_best_of=3,
    max_candidates=8,
    max_stop_sequences=2,
    max_top_n_tokens=5,
    vocab_size=340,
)
SEED = 77


def native(inputs: str = "hello", **parameters: Any) -> Prepared:
    return rules.prepare(
        GenerateBody(inputs, Parameters(**{"max_new_tokens": 5, **parameters})), LIMITS, TOKENIZER, SEED
    )


def test_defaults() -> None:
    request = native().requests[0]
    assert request.sampling == SamplingParams(seed=SEED)
    assert request.stopping == StoppingParams(max_new_tokens=5)
    assert not request.sampling.samples


def test_everything_arrives() -> None:
    request = native(
        temperature=0.5, top_k=7, top_p=0.9, typical_p=0.8, repetition_penalty=1.1, frequency_penalty=-0.5, seed=3,
        do_sample=True, top_n_tokens=2, decoder_input_details=True, stop=["x"],
    ).requests[0]  # fmt: skip
    assert request.sampling == SamplingParams(
        temperature=0.5, top_k=7, top_p=0.9, typical_p=0.8, repetition_penalty=1.1, frequency_penalty=-0.5, seed=3,
        do_sample=True, top_n_tokens=2, prompt_logprobs=True,
    )  # fmt: skip
    assert request.stopping.stop_sequences == ("x",) and request.stopping.keep_stop


def test_no_parameters_means_sampling() -> None:
    limits = replace(LIMITS, max_total_tokens=300)
    request = rules.prepare(GenerateBody("hello"), limits, TOKENIZER, SEED).requests[0]
    assert request.sampling == SamplingParams(do_sample=True, seed=SEED)
    assert request.stopping.max_new_tokens == 100


def test_null_fills_up_to_the_total() -> None:
    assert native(max_new_tokens=None).requests[0].stopping.max_new_tokens == 30 - 4


def test_truncate_keeps_the_last_ids() -> None:
    whole = TOKENIZER.encode("the quick brown fox").ids
    assert native("the quick brown fox", truncate=2).requests[0].prompt_ids == whole[-2:]
    assert native("the quick brown fox", truncate=20).requests[0].prompt_ids == whole


def test_ids_the_model_does_not_have() -> None:
    limits = replace(LIMITS, vocab_size=5)
    with pytest.raises(ValidationError, match="the model has no token"):
        rules.prepare(GenerateBody("hello", Parameters(max_new_tokens=1)), limits, TOKENIZER, SEED)


@pytest.mark.parametrize("parameters", [{"do_sample": True}, {"temperature": 1.0}, {"top_k": 3}])
def test_candidates_are_sampled(parameters: dict[str, Any]) -> None:
    assert native(best_of=2, **parameters).requests[0].sampling.samples
    assert native(best_of=1, seed=5).requests[0].sampling.seed == 5


def test_token_spans_are_characters() -> None:
    text = "été 😀 à Zürich<|end|>"
    spans = rules.token_spans(TOKENIZER, text, None)
    assert all(text[int(span["start"]) : int(span["stop"])] == span["text"] for span in spans)
    assert [span["text"] for span in spans if span["id"] == EOS_ID] == ["<|end|>"]
    assert {span["text"] for span in spans} >= {"😀"}
    assert rules.token_spans(TOKENIZER, text, 2) == spans[-2:]
    assert rules.token_spans(TOKENIZER, text, 0) == []


def test_finish_reasons_are_tgi_words() -> None:
    assert [reason.value for reason in FinishReason] == ["length", "eos_token", "stop_sequence"]


@pytest.mark.alone
@pytest.mark.parametrize("work", [tokenise, partial(rules.token_spans, truncate=None)])
def test_long_texts_leave_the_other_threads_running(work: Callable[[Tokenizer, str], Any]) -> None:
    text = "".join(chr(33 + i * 7919 % 90) for i in range(400_000))
    gaps: list[float] = []
    done = threading.Event()

    def tick() -> None:
        last = time.monotonic()
        while not done.wait(0.001):
            gaps.append(time.monotonic() - last)
            last = time.monotonic()

    ticking = threading.Thread(target=tick)
    ticking.start()
    start = time.monotonic()
    work(TOKENIZER, text)
    needed = time.monotonic() - start
    done.set()
    ticking.join()
    assert max(gaps) < needed / 2, "one call kept the other threads waiting"

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
from tgi_server.router import validate
from tgi_server.router.validate import Limits, Prepared
from tgi_server.router.wire import GenerateBody, Parameters
from tgi_server.types import FinishReason, SamplingParams, StoppingParams

LIMITS = Limits(
    max_input_length=20,
    max_total_tokens=30,
    max_best_of=3,
    max_stop_sequences=2,
    max_top_n_tokens=5,
    vocab_size=340,
)
SEED = 77


def native(inputs: str = "hello", **parameters: Any) -> Prepared:
    return validate.native(
        GenerateBody(inputs, Parameters(**{"max_new_tokens": 5, **parameters})), LIMITS, TOKENIZER, SEED
    )


RULES: list[tuple[dict[str, Any], str]] = [
    ({"temperature": 0.0}, "`temperature` must be strictly positive"),
    ({"temperature": -1.0}, "`temperature` must be strictly positive"),
    ({"temperature": 1e-60}, "`temperature` must be strictly positive"),
    ({"repetition_penalty": 0.0}, "`repetition_penalty` must be strictly positive"),
    ({"frequency_penalty": 2.1}, "`frequency_penalty` must be >= -2.0 and <= 2.0"),
    ({"frequency_penalty": -2.1}, "`frequency_penalty` must be >= -2.0 and <= 2.0"),
    ({"top_p": 0.0}, "`top_p` must be > 0.0 and < 1.0"),
    ({"top_p": 1.0}, "`top_p` must be > 0.0 and < 1.0"),
    ({"typical_p": 0.0}, "`typical_p` must be > 0.0 and < 1.0"),
    ({"typical_p": 1.0}, "`typical_p` must be > 0.0 and < 1.0"),
    ({"top_k": 0}, "`top_k` must be strictly positive"),
    ({"top_k": -1}, "`top_k` must be strictly positive"),
    ({"max_new_tokens": 0}, "`max_new_tokens` must be strictly positive"),
    ({"stop": ["a", "b", "c"]}, "`stop` supports up to 2 stop sequences. Given: 3"),
    ({"stop": [""]}, "`stop` cannot hold an empty string"),
    ({"best_of": 2, "do_sample": True, "seed": 1}, "`seed` must not be set when `best_of` > 1"),
    ({"top_n_tokens": 6}, "`top_n_tokens` must be >= 0 and <= 5. Given: 6"),
    ({"grammar": {"type": "json"}}, "`grammar` is not supported"),
    ({"inputs": ""}, "`inputs` cannot be empty"),
    ({"truncate": 0}, "`truncate` must be strictly positive and less than 20. Given: 0"),
    ({"truncate": 21}, "`truncate` must be strictly positive and less than 20. Given: 21"),
    ({"max_new_tokens": 27}, "`inputs` tokens + `max_new_tokens` must be <= 30. Given: 4 `inputs` tokens and 27"),
    ({"inputs": "z" * 21}, "`inputs` must have less than or equal to 20 tokens. Given: 21"),
]


@pytest.mark.parametrize(("request_", "message"), RULES)
def test_rules(request_: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        native(**request_)
    assert caught.value.public_message().startswith(f"Input validation error: {message}")
    assert (caught.value.status, caught.value.error_type) == (422, "validation")


def test_numbers_that_are_infinite_as_32_bits() -> None:
    with pytest.raises(ValidationError, match="`temperature` is too large"):
        native(temperature=1e60)


@pytest.mark.parametrize("first", range(len(RULES) - 1))
def test_the_first_broken_rule_is_told(first: int) -> None:
    (one, message), (other, _) = RULES[first], RULES[first + 1]
    message = message.split(". Given")[0]
    with pytest.raises(ValidationError) as caught:
        native(**{**other, **one})
    assert message in str(caught.value)


def test_bounds_that_are_allowed() -> None:
    native(frequency_penalty=2.0, top_n_tokens=0, stop=["a", "b"], truncate=20, max_new_tokens=26)


def test_defaults() -> None:
    request = native().request
    assert request.sampling == SamplingParams(seed=SEED)
    assert request.stopping == StoppingParams(max_new_tokens=5)
    assert not request.sampling.samples


def test_everything_arrives() -> None:
    request = native(
        temperature=0.5, top_k=7, top_p=0.9, typical_p=0.8, repetition_penalty=1.1, frequency_penalty=-0.5, seed=3,
        do_sample=True, top_n_tokens=2, decoder_input_details=True, stop=["x"],
    ).request  # fmt: skip
    assert request.sampling == SamplingParams(
        temperature=0.5, top_k=7, top_p=0.9, typical_p=0.8, repetition_penalty=1.1, frequency_penalty=-0.5, seed=3,
        do_sample=True, top_n_tokens=2, prompt_logprobs=True,
    )  # fmt: skip
    assert request.stopping.stop_sequences == ("x",) and request.stopping.keep_stop


def test_no_parameters_means_sampling() -> None:
    limits = replace(LIMITS, max_total_tokens=300)
    request = validate.native(GenerateBody("hello"), limits, TOKENIZER, SEED).request
    assert request.sampling == SamplingParams(do_sample=True, seed=SEED)
    assert request.stopping.max_new_tokens == 100


def test_null_fills_up_to_the_total() -> None:
    assert native(max_new_tokens=None).request.stopping.max_new_tokens == 30 - 4


def test_truncate_keeps_the_last_ids() -> None:
    whole = TOKENIZER.encode("the quick brown fox").ids
    assert native("the quick brown fox", truncate=2).request.prompt_ids == whole[-2:]
    assert native("the quick brown fox", truncate=20).request.prompt_ids == whole


def test_ids_the_model_does_not_have() -> None:
    limits = replace(LIMITS, vocab_size=5)
    with pytest.raises(ValidationError, match="the model has no token"):
        validate.native(GenerateBody("hello", Parameters(max_new_tokens=1)), limits, TOKENIZER, SEED)


@pytest.mark.parametrize("best_of", [None, 0, 1, 3])
def test_best_of(best_of: int | None) -> None:
    validate.check_endpoint(Parameters(best_of=best_of), False, max_best_of=3)


@pytest.mark.parametrize(("max_best_of", "message"), [
    (1, "`best_of` > 1 is not allowed on this endpoint"), (3, "`best_of` must be > 0 and <= 3. Given: 4"),
])  # fmt: skip
def test_too_many_candidates(max_best_of: int, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        validate.check_endpoint(Parameters(best_of=4), False, max_best_of)


def test_candidates_without_sampling() -> None:
    others: list[dict[str, Any]] = [{}, {"max_new_tokens": 0}, {"seed": 1}]
    for other in others:
        with pytest.raises(ValidationError, match="`best_of` > 1 needs sampling"):
            native(best_of=2, **other)


@pytest.mark.parametrize("parameters", [{"do_sample": True}, {"temperature": 1.0}, {"top_k": 3}])
def test_candidates_are_sampled(parameters: dict[str, Any]) -> None:
    assert native(best_of=2, **parameters).request.sampling.samples
    assert native(best_of=1, seed=5).request.sampling.seed == 5


def test_what_a_stream_cannot_carry() -> None:
    for parameters in (Parameters(best_of=0), Parameters(best_of=2, decoder_input_details=True)):
        with pytest.raises(ValidationError, match="`best_of` must be 1"):
            validate.check_endpoint(parameters, True, max_best_of=3)
    with pytest.raises(ValidationError, match="`decoder_input_details`"):
        validate.check_endpoint(Parameters(decoder_input_details=True), True, max_best_of=3)
    validate.check_endpoint(Parameters(best_of=1), True, max_best_of=3)


def test_token_spans_are_characters() -> None:
    text = "été 😀 à Zürich<|end|>"
    spans = validate.token_spans(TOKENIZER, text, None)
    assert all(text[int(span["start"]) : int(span["stop"])] == span["text"] for span in spans)
    assert [span["text"] for span in spans if span["id"] == EOS_ID] == ["<|end|>"]
    assert {span["text"] for span in spans} >= {"😀"}
    assert validate.token_spans(TOKENIZER, text, 2) == spans[-2:]
    assert validate.token_spans(TOKENIZER, text, 0) == []


def test_finish_reasons_are_tgi_words() -> None:
    assert [reason.value for reason in FinishReason] == ["length", "eos_token", "stop_sequence"]


@pytest.mark.parametrize("work", [validate.tokenise, partial(validate.token_spans, truncate=None)])
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

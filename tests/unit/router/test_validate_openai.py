from typing import Any

import pytest

from tests.router_app import EOS, TEMPLATE, TOKENIZER
from tgi_server.errors import TemplateError, ValidationError
from tgi_server.router import validate_openai
from tgi_server.router.chat import ChatTemplate
from tgi_server.router.validate import Limits, Prepared
from tgi_server.router.wire import ChatBody, CompletionBody, Message, StreamOptions, TextPart
from tgi_server.types import SamplingParams

LIMITS = Limits(
    max_input_length=100,
    max_total_tokens=200,
    max_best_of=2,
    max_stop_sequences=2,
    max_top_n_tokens=5,
    vocab_size=340,
)
TURNS = ChatTemplate(TEMPLATE, {"eos_token": EOS})
SEED = 77


def chat(content: Any = "hi", **fields: Any) -> Prepared:
    body = ChatBody(messages=[Message("user", content)], **fields)
    return validate_openai.chat(body, TURNS, LIMITS, TOKENIZER, SEED)


def completion(prompt: Any = "hi", **fields: Any) -> Prepared:
    return validate_openai.completion(CompletionBody(prompt=prompt, **fields), LIMITS, TOKENIZER, SEED)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("n", 2), ("best_of", 2), ("presence_penalty", 0.5), ("logit_bias", {"5": 1.0}), ("min_p", 0.1),
        ("min_tokens", 1), ("stop_token_ids", [5]), ("response_format", {"type": "json_object"}), ("n", 0),
        ("temperature", -0.1), ("temperature", 2.1), ("top_p", 0.0), ("top_p", 1.1), ("top_k", -2),
        ("temperature", 1e-60), ("repetition_penalty", 0.0), ("frequency_penalty", 3.0), ("max_tokens", 0),
        ("stop", ["a", "b", "c"]), ("stop", ""), ("stream_options", StreamOptions(include_usage=True)),
    ],
)  # fmt: skip
def test_refused_everywhere(name: str, value: Any) -> None:
    for ask in (chat, completion):
        with pytest.raises(ValidationError, match=f"`{name}`") as caught:
            ask(**{name: value})
        assert caught.value.param == name


@pytest.mark.parametrize(
    ("name", "value"),
    [("tools", [{}]), ("tool_choice", "required"), ("functions", [{}]), ("function_call", {"name": "f"}),
     ("top_logprobs", 2), ("max_completion_tokens", 0)],
)  # fmt: skip
def test_refused_in_chats(name: str, value: Any) -> None:
    with pytest.raises(ValidationError, match=f"`{name}`"):
        chat(**{name: value})


@pytest.mark.parametrize(("name", "value"), [("echo", True), ("suffix", "x"), ("logprobs", 6)])
def test_refused_in_completions(name: str, value: Any) -> None:
    with pytest.raises(ValidationError, match=f"`{name}`"):
        completion(**{name: value})


def test_fields_that_ask_for_nothing_are_taken() -> None:
    common: dict[str, Any] = {"n": 1, "presence_penalty": 0.0, "logit_bias": {}, "response_format": {"type": "text"}}
    chat(**common, tools=[], tool_choice="none", logprobs=True, top_logprobs=5, model="any")
    completion(**common, echo=False, suffix="", best_of=1)


def test_temperature_zero_is_greedy() -> None:
    sampling = chat(temperature=0.0, top_p=0.5, top_k=3).request.sampling
    assert sampling == SamplingParams(seed=SEED) and not sampling.samples


def test_sampling_is_the_default() -> None:
    assert completion().request.sampling == SamplingParams(do_sample=True, seed=SEED)
    given = completion(temperature=0.5, top_p=0.9, top_k=4, frequency_penalty=1.0, seed=-1, logprobs=2).request.sampling
    assert given == SamplingParams(
        do_sample=True, temperature=0.5, top_p=0.9, top_k=4, frequency_penalty=1.0, seed=2**64 - 1, top_n_tokens=2
    )


def test_how_many_tokens() -> None:
    assert completion().request.stopping.max_new_tokens == 16
    prepared = chat()
    assert prepared.request.stopping.max_new_tokens == 200 - len(prepared.request.prompt_ids)
    assert chat(max_tokens=3, max_completion_tokens=4).request.stopping.max_new_tokens == 4
    assert chat(max_tokens=3, ignore_eos=True).request.stopping.ignore_eos


def test_stop_sequences_are_cut_off() -> None:
    stopping = chat(stop="x").request.stopping
    assert stopping.stop_sequences == ("x",) and not stopping.keep_stop
    assert chat(stop=["x", "y"]).request.stopping.stop_sequences == ("x", "y")
    assert chat(stop=None).request.stopping.stop_sequences == ()


def test_chat_prompt_has_no_second_special_tokens() -> None:
    prepared = chat([TextPart("the "), TextPart("fox")])
    assert prepared.text == "[user]the fox<|end|>[assistant]"
    assert prepared.request.prompt_ids == TOKENIZER.encode(prepared.text, add_special_tokens=False).ids


@pytest.mark.parametrize("prompt", ["the fox", ["the fox"]])
def test_text_prompts(prompt: Any) -> None:
    assert completion(prompt).request.prompt_ids == TOKENIZER.encode("the fox").ids


@pytest.mark.parametrize("prompt", [[5, 6, 7], [[5, 6, 7]]])
def test_token_prompts(prompt: Any) -> None:
    assert completion(prompt).request.prompt_ids == [5, 6, 7]


@pytest.mark.parametrize("prompt", ["", [], [""], [[]], ["a", "b"], [[1], [2]], [1, "a"], [340], [-1], [10**30]])
def test_prompts_that_are_refused(prompt: Any) -> None:
    with pytest.raises(ValidationError):
        completion(prompt)


def test_messages_without_text_are_refused() -> None:
    with pytest.raises(ValidationError, match="text content"):
        chat(None)


def test_no_template() -> None:
    with pytest.raises(TemplateError, match="no chat template"):
        validate_openai.chat(ChatBody(messages=[Message("user", "x")]), None, LIMITS, TOKENIZER, SEED)

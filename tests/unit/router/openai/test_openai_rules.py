import json
from dataclasses import replace
from typing import Any

import pytest

from tests.router_app import EOS, TEMPLATE, TOKENIZER
from tgi_server.errors import TemplateError, ValidationError
from tgi_server.router.chat.messages import (
    AllowedTools,
    ContentPart,
    Function,
    FunctionName,
    Message,
    NamedTool,
    Tool,
    ToolChoice,
)
from tgi_server.router.chat.template import ChatTemplate
from tgi_server.router.http.formats import (
    JsonFormat,
    JsonObjectFormat,
    JsonSchemaFormat,
    NamedSchema,
    RegexFormat,
    TextFormat,
)
from tgi_server.router.http.limits import Limits, Prepared
from tgi_server.router.openai import rules
from tgi_server.router.openai.requests import ChatBody, CompletionBody, StreamOptions
from tgi_server.types import SamplingParams

LIMITS = Limits(
    max_input_length=100,
    max_total_tokens=200,
    max_best_of=2,
    max_stop_sequences=2,
    max_top_n_tokens=5,
    max_candidates=128,
    vocab_size=340,
)
TURNS = ChatTemplate(TEMPLATE, {"eos_token": EOS})
SEED = 77
WEATHER = Tool(Function("weather"))


def chat(content: Any = "hi", limits: Limits = LIMITS, **fields: Any) -> Prepared:
    body = ChatBody(messages=[Message("user", content)], **fields)
    return rules.chat(body, TURNS, limits, TOKENIZER, SEED)


def completion(prompt: Any = "hi", **fields: Any) -> Prepared:
    return rules.completion(CompletionBody(prompt=prompt, **fields), LIMITS, TOKENIZER, SEED)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("presence_penalty", -2.5), ("logit_bias", {"340": 1.0}), ("logit_bias", {"-1": 1.0}), ("min_p", -0.1),
        ("logit_bias", {"x": 1.0}), ("logit_bias", {"5": 100.5}), ("logit_bias", {"9" * 5000: 1.0}),
        ("logit_bias", {str(id): 1.0 for id in range(1025)}),
        ("response_format", JsonFormat({"type": "object", "properties": {f"k{i}": {} for i in range(1001)}})),
        ("response_format", JsonFormat({"anyOf": [{"const": i} for i in range(1001)]})),
        ("response_format", JsonFormat({"enum": ["x" * 99 + str(i) for i in range(700)]})),
        ("min_p", 1.1), ("typical_p", 0.0), ("typical_p", 1.1),
        ("guided_json", {}), ("stop_token_ids", [5]), ("response_format", JsonFormat(7)),
        ("response_format", JsonFormat("{")), ("response_format", JsonFormat({"type": "thing"})),
        ("response_format", JsonSchemaFormat()), ("response_format", JsonObjectFormat({}, {})),
        ("response_format", JsonSchemaFormat(NamedSchema({}), {})), ("response_format", JsonObjectFormat(schema=1)),
        ("response_format", RegexFormat("(")),
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
    [("tools", [WEATHER, WEATHER]), ("tool_choice", "required"), ("tool_choice", ToolChoice(FunctionName("f"))),
     ("top_logprobs", 2), ("max_completion_tokens", 0)],
)  # fmt: skip
def test_refused_in_chats(name: str, value: Any) -> None:
    with pytest.raises(ValidationError, match=f"`{name}`"):
        chat(**{name: value})


@pytest.mark.parametrize(("name", "value"), [("suffix", "x"), ("logprobs", 6)])
def test_refused_in_completions(name: str, value: Any) -> None:
    with pytest.raises(ValidationError, match=f"`{name}`"):
        completion(**{name: value})


def test_fields_that_ask_for_nothing_are_taken() -> None:
    common: dict[str, Any] = {"n": 1, "presence_penalty": 0.0, "logit_bias": {}, "response_format": {"type": "text"}}
    chat(**common, tools=[], tool_choice="none", logprobs=True, top_logprobs=5, model="any")
    completion(**common, echo=False, suffix="", best_of=1)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"n": 0}, "n"), ({"n": 129}, "n"), ({"n": -(2**31)}, "n"), ({"best_of": 0}, "best_of"),
        ({"n": 3, "best_of": 2}, "best_of"), ({"best_of": 3}, "best_of"), ({"best_of": 2, "stream": True}, "best_of"),
        ({"prompt": ["a", "b"] * 33, "n": 2}, "n"), ({"prompt": ["a", 5]}, "prompt"),
    ],
)  # fmt: skip
def test_how_many_texts_are_refused(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(ValidationError) as caught:
        rules.check_texts(CompletionBody(**({"prompt": "hi"} | fields)), LIMITS)
    assert caught.value.param == param


def test_how_many_texts_there_are() -> None:
    for fields, count in (({}, 1), ({"n": 3}, 3), ({"best_of": 2}, 2), ({"n": 2, "prompt": ["a", "b"]}, 4)):
        body = CompletionBody(**({"prompt": "hi"} | fields))
        assert rules.check_texts(body, LIMITS) == count
        assert len(rules.completion(body, LIMITS, TOKENIZER, SEED).requests) == count
    assert rules.check_texts(ChatBody(messages=[], n=5), LIMITS) == 5


def test_choices_differ_in_their_seeds_only() -> None:
    prepared = completion(["a", "b c"], n=2, seed=2**64 - 1)
    assert [request.sampling.seed for request in prepared.requests] == [2**64 - 1, 0] * 2
    assert prepared.prompt_tokens == sum(len(TOKENIZER.encode(text).ids) for text in ("a", "b c"))
    assert prepared.characters == 4


def test_what_guides_a_text() -> None:
    schema: Any = {"type": "object", "properties": {"a": {"type": "integer"}}}
    same = [
        JsonFormat(schema), JsonFormat(json.dumps(schema)), JsonObjectFormat(schema), JsonSchemaFormat(value=schema),
        JsonSchemaFormat(NamedSchema(schema, "x")), JsonSchemaFormat(value={"name": "x", "schema": schema}),
        JsonObjectFormat(schema=schema), JsonSchemaFormat(schema=schema), JsonObjectFormat(schema=json.dumps(schema)),
    ]  # fmt: skip
    guides = [chat(response_format=format, max_tokens=9).requests[0].sampling.guide for format in same]
    assert guides[0] is not None and guides[0].max_tokens == 9 and len(set(guides)) == 1
    assert completion(response_format=same[0], max_tokens=9).requests[0].sampling.guide == guides[0]
    assert chat(response_format=TextFormat()).requests[0].sampling.guide is None
    with pytest.raises(ValidationError, match="ignore_eos"):
        chat(response_format=JsonObjectFormat(), ignore_eos=True)


def test_tools_are_told_and_guide() -> None:
    limits = replace(LIMITS, max_input_length=1000, max_total_tokens=2000)
    for choice in (None, "auto", "required", "weather", ToolChoice(FunctionName("weather"))):
        prepared = chat(tools=[WEATHER], tool_choice=choice, limits=limits)
        assert '"name": "weather"' in prepared.prompts[0].text and prepared.requests[0].sampling.guide is not None
    prepared = chat(tools=[WEATHER], tool_choice="none")
    assert "weather" not in prepared.prompts[0].text and prepared.requests[0].sampling.guide is None
    with pytest.raises(ValidationError, match="regular expression"):
        chat(tools=[WEATHER], response_format=RegexFormat("a"), limits=limits)


def test_allowed_tools_are_the_only_ones() -> None:
    limits = replace(LIMITS, max_input_length=1000, max_total_tokens=2000)
    allowed = ToolChoice(type="allowed_tools", allowed_tools=AllowedTools([NamedTool(FunctionName("weather"))]))
    two = chat(tools=[WEATHER, Tool(Function("clock"))], tool_choice=allowed, limits=limits)
    one = chat(tools=[WEATHER], tool_choice="auto", limits=limits)
    assert two.prompts[0].text == one.prompts[0].text and "clock" not in two.prompts[0].text
    assert two.requests[0].sampling.guide == one.requests[0].sampling.guide is not None


def test_how_the_prompt_ends() -> None:
    def ends(**fields: Any) -> str:
        turns = [Message("user", "the"), Message("assistant", "fox ")]
        prepared = rules.chat(ChatBody(messages=turns, **fields), TURNS, LIMITS, TOKENIZER, SEED)
        return prepared.prompts[0].text.removeprefix(f"[user]the{EOS}")

    assert ends() == ends(add_generation_prompt=True) == "[assistant]fox <|end|>[assistant]"
    assert ends(add_generation_prompt=False) == "[assistant]fox <|end|>"
    for begin in (None, False):
        assert ends(continue_final_message=True, add_generation_prompt=begin) == "[assistant]fox "
    with pytest.raises(ValidationError, match="cannot both be true") as caught:
        ends(continue_final_message=True, add_generation_prompt=True)
    assert caught.value.param == "continue_final_message"
    with pytest.raises(ValidationError, match="`continue_final_message` needs a last message of the role `assistant`"):
        chat(continue_final_message=True)


@pytest.mark.parametrize(
    ("begun", "thinks"),
    [(None, True), ("", False), ("<think>so", True), ("<think>so</think>\n\nThe", None), ("The </think> is", None)],
)
def test_an_answer_that_is_gone_on_with_may_have_its_thoughts_behind_it(begun: str | None, thinks: bool | None) -> None:
    """`thinks`: whether it goes on with a thought; None where none can come."""
    turns = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    template = ChatTemplate(turns + "{{ '<assistant><think>' if add_generation_prompt }}{# </think> #}", {})
    messages = [Message("user", "hi")] + ([] if begun is None else [Message("assistant", begun)])
    body = ChatBody(messages=messages, continue_final_message=begun is not None)
    reasoning = rules.chat(body, template, LIMITS, TOKENIZER, SEED).requests[0].stopping.reasoning
    assert (reasoning.begun if reasoning else None) is thinks


def test_templates_get_more_variables() -> None:
    template = ChatTemplate("{{ messages[0].content }}{% if enable_thinking is false %}<no>{% endif %}", {})
    for variables, text in ((None, "hi"), ({"enable_thinking": False}, "hi<no>"), ({"enable_thinking": True}, "hi")):
        body = ChatBody(messages=[Message("user", "hi")], chat_template_kwargs=variables)
        assert rules.chat(body, template, LIMITS, TOKENIZER, SEED).prompts[0].text == text
    with pytest.raises(ValidationError, match="cannot set `messages`"):
        chat(chat_template_kwargs={"messages": []})


def test_an_echo_of_token_ids_is_decoded() -> None:
    ids = TOKENIZER.encode("the fox").ids
    assert completion(ids, echo=True, max_tokens=0).prompts[0].text == "the fox"
    assert completion(ids).prompts[0].text == ""
    sampling = completion(ids, echo=True, logprobs=2).requests[0].sampling
    assert (sampling.prompt_logprobs, sampling.prompt_top_tokens) == (True, 2)
    assert not completion(ids, logprobs=2).requests[0].sampling.prompt_logprobs
    assert not completion(ids, echo=True).requests[0].sampling.prompt_logprobs


def test_temperature_zero_is_greedy() -> None:
    sampling = chat(temperature=0.0, top_p=0.5, top_k=3, typical_p=0.5, min_p=0.5).requests[0].sampling
    assert sampling == SamplingParams(seed=SEED) and not sampling.samples


def test_sampling_is_the_default() -> None:
    assert completion().requests[0].sampling == SamplingParams(do_sample=True, seed=SEED)
    given = (
        completion(temperature=0.5, top_p=0.9, top_k=4, frequency_penalty=1.0, seed=-1, logprobs=2).requests[0].sampling
    )
    assert given == SamplingParams(
        do_sample=True, temperature=0.5, top_p=0.9, top_k=4, frequency_penalty=1.0, seed=2**64 - 1, top_n_tokens=2
    )
    assert chat(typical_p=0.9, watermark=True).requests[0].sampling == SamplingParams(
        do_sample=True, typical_p=0.9, watermark=True, seed=SEED
    )


def test_how_many_tokens() -> None:
    assert completion().requests[0].stopping.max_new_tokens == 16
    prepared = chat()
    assert prepared.requests[0].stopping.max_new_tokens == 200 - len(prepared.requests[0].prompt_ids)
    assert chat(max_tokens=3, max_completion_tokens=4).requests[0].stopping.max_new_tokens == 4
    assert chat(max_tokens=3, ignore_eos=True).requests[0].stopping.ignore_eos


def test_stop_sequences_are_cut_off() -> None:
    stopping = chat(stop="x").requests[0].stopping
    assert stopping.stop_sequences == ("x",) and not stopping.keep_stop
    assert chat(stop=["x", "y"]).requests[0].stopping.stop_sequences == ("x", "y")
    assert chat(stop=None).requests[0].stopping.stop_sequences == ()


def test_chat_prompt_has_no_second_special_tokens() -> None:
    prepared = chat([ContentPart("the "), ContentPart("fox")])
    assert prepared.prompts[0].text == "[user]the fox<|end|>[assistant]"
    assert prepared.requests[0].prompt_ids == TOKENIZER.encode(prepared.prompts[0].text, add_special_tokens=False).ids


@pytest.mark.parametrize("prompt", ["the fox", ["the fox"]])
def test_text_prompts(prompt: Any) -> None:
    assert completion(prompt).requests[0].prompt_ids == TOKENIZER.encode("the fox").ids


@pytest.mark.parametrize("prompt", [[5, 6, 7], [[5, 6, 7]]])
def test_token_prompts(prompt: Any) -> None:
    assert completion(prompt).requests[0].prompt_ids == [5, 6, 7]


@pytest.mark.parametrize("prompt", ["", [], [""], [[]], ["a", ""], [[1], []], [1, "a"], [340], [-1], [10**30]])
def test_prompts_that_are_refused(prompt: Any) -> None:
    with pytest.raises(ValidationError):
        completion(prompt)


def test_messages_without_text_are_refused() -> None:
    with pytest.raises(ValidationError, match="text content"):
        chat(None)


def test_no_template() -> None:
    with pytest.raises(TemplateError, match="no chat template"):
        rules.chat(ChatBody(messages=[Message("user", "x")]), None, LIMITS, TOKENIZER, SEED)

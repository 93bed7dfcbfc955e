"""How models mark what they think: told from templates and prompts, and the grammars of what comes after thoughts."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from llguidance import LLMatcher, LLTokenizer

from tests.router_app import make_tokenizer
from tgi_server.router.chat.messages import Function, Tool
from tgi_server.router.chat.reasoning import FORMATS, ReasoningFormat, after_thoughts, effort_variables, format_of
from tgi_server.router.chat.tools import FORMATS as TOOL_FORMATS
from tgi_server.router.chat.tools import HERMES, ToolFormat, grammar
from tgi_server.types import Reasoning

HARMONY, MAGISTRAL, SEED, GRANITE, EXAONE, THINK = FORMATS
LLAMA = TOOL_FORMATS[2]
SPECIAL = ["[THINK]", "[/THINK]", "<|channel|>", "<|message|>", "<|end|>", "<|start|>", "[EOS]"]


@pytest.mark.parametrize(
    ("template", "format"),
    [
        ("{{ messages }}", None),
        ("{%- set content = content.split('</think>')[-1].lstrip('\\n') %}", THINK),
        ("{{ '[THINK]' + block['thinking'] + '[/THINK]' }}", MAGISTRAL),
        ('{%- set think_end_token = "</seed:think>" -%}', SEED),
        ("Write your thoughts after 'Here is my thought process:' and your response after", GRANITE),
        ("{% if '</thought>' in content %}", EXAONE),
        ('{{- "<|start|>assistant<|channel|>analysis<|message|>" ~ message.thinking }}', HARMONY),
    ],
)
def test_the_marks_are_those_of_the_template(template: str, format: ReasoningFormat | None) -> None:
    assert format_of(template) is format


@pytest.mark.parametrize(
    ("prompt", "begun"),
    [
        ("<|im_start|>assistant\n", False),
        ("<|im_start|>assistant\n<think>\n", True),
        ("What is <think>?<|im_end|>\n<|im_start|>assistant\n", False),
        ("<|im_start|>assistant\n<think>\n\n</think>\n\n", None),
        ("<|Assistant|></think>", None),
    ],
)
def test_where_thoughts_begin(prompt: str, begun: bool | None) -> None:
    expected = None if begun is None else Reasoning("<think>", "</think>", begun=begun)
    assert THINK.after(prompt) == expected


@pytest.mark.parametrize(
    ("continued", "begun"), [("<think>\nI", True), ("Sure", None), ("<think>a</think>b", None), ("<think>", True)]
)
def test_a_message_that_is_gone_on_with_may_be_a_thought(continued: str, begun: bool | None) -> None:
    assert THINK.within(continued) == (begun and Reasoning("<think>", "</think>", begun=True))


@pytest.mark.parametrize(
    ("effort", "variables"),
    [
        (None, {}),
        ("none", {"enable_thinking": False, "thinking": False}),
        ("high", {"enable_thinking": True, "thinking": True, "reasoning_effort": "high"}),
    ],
)
def test_effort(effort: str | None, variables: dict[str, Any]) -> None:
    assert effort_variables(effort) == variables


TOKENIZER = make_tokenizer()
TOKENIZER.add_special_tokens(SPECIAL)
READER = LLTokenizer(TOKENIZER.to_str(), eos_token=TOKENIZER.encode("[EOS]").ids[0])
IDS = {token: TOKENIZER.encode(token).ids[0] for token in SPECIAL}
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": False}
JSON = LLMatcher.grammar_from_json_schema(json.dumps(SCHEMA), overrides={"whitespace_flexible": False})
ANY, MAY_NOT_END, REFUSED = "it may end", "it may go on", "it may not be written"


def judged(text: str, marks: Reasoning, answer: str) -> str:
    matcher = LLMatcher(READER, after_thoughts(marks, answer, IDS), log_level=0)
    assert not matcher.is_error(), matcher.get_error()
    ids = TOKENIZER.encode(text).ids
    if matcher.try_consume_tokens(ids) < len(ids):
        return REFUSED
    return ANY if matcher.is_accepting() else MAY_NOT_END


@pytest.mark.parametrize("format", FORMATS, ids=lambda marks: marks.begin)
def test_a_schema_begins_after_the_thoughts(format: ReasoningFormat) -> None:
    marks = format.after("")
    assert marks is not None
    begun = replace(marks, begun=True)
    for text, expected in [
        (f'\nHm {{\n{format.end}\n\n{{"a":1}}', ANY),
        (f'Hm{format.end}{{"a":1}}', ANY),
        ("Hm", MAY_NOT_END),
        (f"Hm{format.end}", MAY_NOT_END),
        (f"Hm{format.end}Hm", REFUSED),
    ]:
        assert judged(format.begin + text, marks, JSON) == judged(text, begun, JSON) == expected, text
    assert judged('{"a":1}', marks, JSON) == ANY and judged("Hm", marks, JSON) == REFUSED
    assert judged('{"a":1}', begun, JSON) == MAY_NOT_END, "it is but a thought"
    if format.direct:
        assert judged(f'{format.direct}{{"a":1}}', marks, JSON) == ANY


@pytest.mark.parametrize("begun", [True, False])
def test_a_regular_expression_begins_after_the_thoughts(begun: bool) -> None:
    marks, begin = Reasoning("<think>", "</think>", begun=begun), "" if begun else "<think>"
    answer = LLMatcher.grammar_from_regex("<b>+")
    assert judged(f"{begin}a</think>\n<b>>", marks, answer) == ANY
    assert judged(f"{begin}a</think><c>", marks, answer) == REFUSED


@pytest.mark.parametrize("required", [True, False])
@pytest.mark.parametrize("calls", [HERMES, LLAMA], ids=["Hermes", "Llama"])
def test_calls_begin_after_the_thoughts(calls: ToolFormat, required: bool) -> None:
    tools = [Tool(Function("now", None, {"type": "object", "additionalProperties": False}))]
    answer = grammar(tools, calls, {}, required=required, parallel=True)
    call = f'{calls.begin}{{"name": "now", "{calls.arguments}": {{}}}}{calls.end}'
    bad = call.replace("now", "rm")
    marks = Reasoning("<think>", "</think>")
    for before in ("", "<think>\nHm</think>\n\n", f"<think>{bad}</think>"):
        assert judged(before + call, marks, answer) == ANY
        assert judged(before + bad, marks, answer) == REFUSED
        assert judged(f"{before}Hello", marks, answer) == (REFUSED if required else ANY)
    assert judged(f"<think>{call}", marks, answer) == MAY_NOT_END
    assert judged(call, replace(marks, begun=True), answer) == MAY_NOT_END

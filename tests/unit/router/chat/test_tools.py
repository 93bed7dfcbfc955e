"""Calls of functions: the grammars of answers that hold them, and reading them back, however they are cut."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from llguidance import LLMatcher, LLTokenizer
from tokenizers import Tokenizer

from tests.router_app import make_tokenizer
from tgi_server.errors import ValidationError
from tgi_server.router.chat.messages import Function, Tool
from tgi_server.router.chat.reader import CallPart, CallReader
from tgi_server.router.chat.tools import FORMATS, HERMES, ToolFormat, format_of, grammar

_, MISTRAL, LLAMA = FORMATS
PLACE = {"type": "object", "properties": {"place": {"type": "string"}}, "required": ["place"]}
TOOLS = [Tool(Function("weather", "It tells the weather", PLACE)), Tool(Function("now"))]
MARK = "[TOOL_CALLS]"


def _tokenizer(special: list[str]) -> Tokenizer:
    tokenizer = make_tokenizer()
    tokenizer.add_special_tokens(special)
    return tokenizer


TOKENIZERS = {MISTRAL: _tokenizer([MARK]), HERMES: _tokenizer([]), LLAMA: _tokenizer([])}
ORDINARY = _tokenizer([])
READERS: dict[ToolFormat, Any] = {}


def follows(text: str, format: ToolFormat, whole: bool = True, ids: list[int] | None = None, **options: Any) -> bool:
    """Whether a model may write `text`, and end there if it is the `whole` answer."""
    tokenizer = TOKENIZERS[format]
    reader = READERS.setdefault(format, LLTokenizer(tokenizer.to_str()))
    special = {MARK: tokenizer.encode(MARK).ids[0]} if format is MISTRAL else {}
    wanted: dict[str, Any] = {"required": False, "parallel": True} | options
    tools = wanted.pop("tools", TOOLS)
    matcher = LLMatcher(reader, grammar(tools, format, special, **wanted), log_level=0)
    assert not matcher.is_error(), matcher.get_error()
    ids = tokenizer.encode(text).ids if ids is None else ids
    return matcher.try_consume_tokens(ids) == len(ids) and (not whole or matcher.is_accepting())


WEATHER = '{"name": "weather", "arguments": {"place": "Bern"}}'
NOW = '{"name": "now", "arguments": {}}'
CALLS = {
    HERMES: (
        f"<tool_call>\n{WEATHER}\n</tool_call>",
        f"<tool_call>\n{WEATHER}\n</tool_call>\n<tool_call>\n{NOW}\n</tool_call>",
    ),
    MISTRAL: (f"{MARK} [{WEATHER}]", f"{MARK} [{WEATHER}, {NOW}]"),
    LLAMA: (WEATHER.replace("arguments", "parameters"), ""),
}


@pytest.mark.parametrize("format", CALLS)
def test_what_may_be_written(format: ToolFormat) -> None:
    one, two = CALLS[format]
    assert follows(one, format) and follows(one, format, required=True)
    assert follows("Hello, {you}\n<b>", format) and follows("", format)
    assert not follows("Hello", format, required=True) and not follows("", format, required=True)
    assert not follows(one[:-1], format)
    for broken in (one.replace("weather", "whether"), one.replace("place", "city"), one.replace('"Bern"', "7")):
        assert not follows(broken, format) and not follows(broken, format, required=True)
    if two:
        assert follows(two, format) and follows(two, format, required=True)
        assert not follows(two, format, parallel=False)
    if format.begin:
        assert follows(f"Let me see.\n{one}", format)
        assert not follows(f"Let me see.\n{one}", format, required=True)


@pytest.mark.parametrize("format", [HERMES, MISTRAL])
def test_an_answer_that_has_a_schema_where_it_is_no_call(format: ToolFormat) -> None:
    schema = {"type": "object", "properties": {"answer": {"type": "integer"}}, "additionalProperties": False}
    assert follows('{"answer": 7}', format, schema=schema) and follows(CALLS[format][0], format, schema=schema)
    assert not follows("seven", format, schema=schema) and not follows('{"answer": "7"}', format, schema=schema)


def test_an_answer_that_begins_like_a_call() -> None:
    with pytest.raises(ValidationError, match="cannot be told apart"):
        grammar(TOOLS, LLAMA, {}, required=False, parallel=True, schema={})
    assert follows(CALLS[LLAMA][0], LLAMA, schema={}, required=True)


ODD = {
    "type": "object",
    "properties": {
        "place": {"type": "string", "format": "path"},
        "tags": {"type": "array", "items": {"type": "string"}, "uniqueItems": True},
    },
    "required": ["place"],
    "not": {"required": ["x"]},
}


@pytest.mark.parametrize("format", CALLS)
def test_a_schema_is_followed_as_far_as_that_goes(format: ToolFormat) -> None:
    tools = [Tool(Function("odd", None, ODD)), *TOOLS]
    for arguments, right in [
        ('{"place": "Bern"}', True), ('{"place": "Bern", "tags": ["a", "a"]}', True), ('{"place": 7}', False),
        ('{"tags": []}', False), ('{"place": "Bern", "tags": "a"}', False),
    ]:  # fmt: skip
        text = f'{format.begin}{{"name": "odd", "{format.arguments}": {arguments}}}{format.end}'
        assert follows(text, format, tools=tools) == follows(text, format, tools=tools, required=True) == right
    assert follows(CALLS[format][0], format, tools=tools) and not follows(CALLS[format][0][:-1], format, tools=tools)


def test_a_strict_schema_that_cannot_be_followed_is_refused() -> None:
    with pytest.raises(ValidationError) as caught:
        grammar([*TOOLS, Tool(Function("odd", None, ODD, True))], HERMES, {}, required=False, parallel=True)
    assert str(caught.value) == (
        "the arguments of `odd` cannot be followed strictly: `not` at `$`: not supported; "
        "`format` at `$.properties.place`: Unknown format: path; `uniqueItems` at `$.properties.tags`: not supported"
    )
    overlap = {"type": "object", "properties": {"a": {"oneOf": [{"type": "string"}, {"enum": ["b"]}]}}}
    with pytest.raises(ValidationError, match=r"`oneOf` at `\$.properties.a`"):
        grammar([Tool(Function("f", None, overlap, True))], HERMES, {}, required=False, parallel=True)
    tools = [Tool(Function("f", None, overlap))]
    assert follows('<tool_call>\n{"name": "f", "arguments": {"a": "b"}}\n</tool_call>', HERMES, tools=tools)


def test_an_answer_whose_schema_cannot_be_followed() -> None:
    schema = {"type": "object", "properties": {"a": {"not": {}}, "b": {"type": "string", "format": "path"}}}
    with pytest.raises(
        ValidationError, match=r"`response_format` cannot be followed: `not` at `\$.properties.a`"
    ) as caught:
        grammar(TOOLS, HERMES, {}, required=False, parallel=True, schema=schema)
    assert caught.value.param == "response_format" and "`format`" not in str(caught.value)
    del schema["properties"]["a"]  # type: ignore[attr-defined]
    assert follows('{"b": "x"}', HERMES, schema=schema) and not follows('{"b": 1}', HERMES, schema=schema)


@pytest.mark.parametrize(
    ("parameters", "taken", "refused"),
    [
        (None, ["{}"], ['{"a": 1}']),
        ({}, ["{}"], ['{"a": 1}']),
        ({"type": "object", "properties": {}, "required": []}, ["{}"], ['{"a": 1}']),
        ({"type": ["object", "null"], "properties": [], "required": None}, ["{}"], ['{"a": 1}', "null"]),
        (PLACE, ['{"place": "Bern"}'], ['{"place": "Bern", "a": 1}', "{}"]),
        ({"type": "object"}, ["{}", '{"a": 1}'], ["1"]),
        (PLACE | {"additionalProperties": True}, ['{"place": "Bern", "a": 1}'], ["{}"]),
        (PLACE | {"required": ["other"]}, ['{"other": 1}'], ["{}"]),
        (PLACE | {"minProperties": 2}, ['{"place": "Bern", "a": 1}'], ['{"place": "Bern"}']),
    ],
)
def test_no_argument_is_invented(parameters: dict[str, Any] | None, taken: list[str], refused: list[str]) -> None:
    for strict in (None, True) if parameters is None or parameters.get("required") is not None else (None,):
        tools = [Tool(Function("f", None, parameters, strict))]
        for arguments in [*taken, *refused]:
            text = f'<tool_call>\n{{"name": "f", "arguments": {arguments}}}\n</tool_call>'
            assert follows(text, HERMES, tools=tools, required=True) == (arguments in taken), arguments


def read(format: ToolFormat, pieces: list[str], required: bool = False) -> tuple[str, list[tuple[str, str]]]:
    """The text and the calls of an answer that comes in `pieces`."""
    reader = CallReader(None if required else format.mark(()))
    text, calls = "", list[tuple[str, str]]()
    parts = [part for piece in pieces for part in reader.feed(piece)] + reader.end()
    for part in parts:
        if isinstance(part, str):
            assert part and not calls
            text += part
        elif part.name is not None:
            assert part.id is not None and re.fullmatch(r"[a-zA-Z0-9]{9}", part.id)  # as Mistral's templates demand
            assert part.index == len(calls)
            calls.append((part.name, part.arguments))
        else:
            assert part.index == len(calls) - 1
            calls[-1] = (calls[-1][0], calls[-1][1] + part.arguments)
    return text, calls


HARD: dict[str, Any] = {"place": 'a "}{" b\\', "list": [{"x": [1, "]"]}, {}], "é": "\n</tool_call>", "e": {}}


@pytest.mark.parametrize("format", CALLS)
@given(cuts=st.sets(st.integers(1, 200)), data=st.data())
def test_calls_are_read_however_they_are_cut(format: ToolFormat, cuts: set[int], data: st.DataObject) -> None:
    hard = json.dumps(HARD, ensure_ascii=data.draw(st.booleans()))
    first = f'{{"name": "weather", "{format.arguments}": {hard}}}'
    second = f'{{"name": "now", "{format.arguments}": {{}}}}'
    before = data.draw(st.sampled_from(["", "So:\n", "<tool", "[TOOL", "{ "])) if format.begin else ""
    calls = [first, second] if format.between else [first]
    text = before + format.begin + (format.between or "").join(calls) + format.end
    at = [0, *sorted(cut for cut in cuts if cut < len(text)), len(text)]
    pieces = [text[start:end] for start, end in pairwise(at)]
    expected = [("weather", hard), ("now", "{}")][: len(calls)]
    assert read(format, pieces) == (before, expected)
    assert read(format, pieces, required=True) == ("", expected)


@pytest.mark.parametrize("format", CALLS)
@given(text=st.text(st.sampled_from('{"name: <tool_ca[TOOL')), data=st.data())
def test_other_texts_come_back_whole(format: ToolFormat, text: str, data: st.DataObject) -> None:
    assume(not text.startswith('{"name": "'))
    cut = data.draw(st.integers(0, len(text)))
    assert read(format, [text[:cut], text[cut:]]) == (text, [])


NEAR = [
    "Use the <tool_call> tag. More text", '<tool_call>{"name": "rm", "arguments": {"x": 1}}', MARK, "<tool_call>", "{",
    f'{MARK} [{{"name": "rm", "arguments": {{}}}}]', '{"name": "rm"}', f"x {WEATHER}", f"x {MARK} [{WEATHER}]",
]  # fmt: skip


@pytest.mark.parametrize("format", CALLS)
def test_what_the_grammar_takes_for_text_is_text(format: ToolFormat) -> None:
    """However near it comes to a call, spelled out in ordinary tokens."""
    special = frozenset([MARK] if format is MISTRAL else [])
    taken = [text for text in NEAR if follows(text, format, ids=ORDINARY.encode(text).ids)]
    assert len(taken) >= 4
    for text in taken:
        reader = CallReader(format.mark(special))
        parts = [part for sign in text for part in reader.feed(sign)] + reader.end()
        assert "".join(part for part in parts if isinstance(part, str)) == text


def test_a_special_token_begins_calls() -> None:
    reader = CallReader(MISTRAL.mark([MARK]))
    parts = reader.feed("So: ") + reader.special("<s>") + reader.special(MARK) + reader.feed(f" [{WEATHER}]")
    assert parts[0] == "So: "
    assert [part.name or part.arguments for part in parts[1:] if isinstance(part, CallPart)] == [
        "weather", '{"place": "Bern"}',
    ]  # fmt: skip


def test_text_is_held_back_no_longer_than_needed() -> None:
    reader = CallReader(HERMES.mark(()))
    assert [reader.feed(piece) for piece in ("Hi <", "tool", "> <to")] == [["Hi "], [], ["<tool> "]]
    assert reader.end() == ["<to"]


def test_a_call_that_was_cut_off() -> None:
    assert read(HERMES, ['<tool_call>\n{"name": "weather", "arguments": {"pl']) == ("", [("weather", '{"pl')])
    assert read(HERMES, ['Well <tool_call>\n{"name": "wea']) == ("Well ", [])


@pytest.mark.parametrize(
    ("template", "format"),
    [
        ("{{ messages }}", HERMES),
        ("For each call return <tool_call>", HERMES),
        ("{{ '[TOOL_CALLS] [' }}", MISTRAL),
        ('Respond in the format {"name": function name, "parameters": dictionary of argument name and value}', LLAMA),
    ],
)
def test_the_format_is_that_of_the_template(template: str, format: ToolFormat) -> None:
    assert format_of(template) is format

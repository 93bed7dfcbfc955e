"""A stream and its unstreamed twin say the same, and what they say is right, however tokens cut what a model writes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from tests.router_app import EOS_ID, Router, make_tokenizer, started
from tests.unit.router.openai.test_openai import HELLO, post, stream
from tgi_server.router.chat.tools import FORMATS, ToolFormat
from tgi_server.types import Mark, NewSequence

CHAT = "/v1/chat/completions"
TEMPLATE = "{% for message in messages %}{{ message.content }}{% endfor %}{# SIGN #}"


@dataclass
class Model:
    """A router on a model that writes `ids`, whatever it is asked; `mark` is what its calls begin at."""

    runner: asyncio.Runner
    router: Router
    format: ToolFormat
    tokenizer: Tokenizer
    mark: Mark
    ids: list[int]

    def twins(self, ids: Sequence[int], body: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """What the whole answer and the stream say of content, calls, reason, tokens and log-probabilities."""
        self.ids[:] = ids
        body = {"messages": HELLO, "logprobs": True} | body
        status, whole, _ = self.runner.run(post(self.router, CHAT, body))
        assert status == 200, whole
        told = body | {"stream_options": {"include_usage": True}}
        return _said(whole), _joined(self.runner.run(stream(self.router, CHAT, told)))

    def written(self, text: str, cuts: set[int]) -> list[int]:
        """Token ids of a text, of which some begin at each of the `cuts`; a special mark is a token of its own."""
        if self.mark.special and self.mark.text in text:
            before, _, after = text.partition(self.mark.text)
            rest = self.written(after, {cut - len(before) - len(self.mark.text) for cut in cuts})
            return [*self.written(before, cuts), self.tokenizer.token_to_id(self.mark.text) or 0, *rest]
        at = [0, *sorted(cut for cut in cuts if 0 < cut < len(text)), len(text)]
        return [id for start, end in pairwise(at) for id in self.tokenizer.encode(text[start:end]).ids]


HERMES, MISTRAL, LLAMA = FORMATS
KINDS = {"hermes": (HERMES, ""), "mistral": (MISTRAL, ""), "special": (MISTRAL, MISTRAL.sign), "llama": (LLAMA, "")}


@pytest.fixture(scope="module", params=KINDS)
def model(request: pytest.FixtureRequest) -> Iterator[Model]:
    format, special = KINDS[request.param]
    ids, tokenizer = [EOS_ID], make_tokenizer()
    tokenizer.add_special_tokens([special] if special else [])

    def choose(new: NewSequence, position: int) -> int:
        written = position - len(new.prompt_ids)
        return ids[written] if written < len(ids) else EOS_ID

    with asyncio.Runner() as runner:
        opened = started(choose, template=TEMPLATE.replace("SIGN", format.sign), tokenizer=tokenizer)
        yield Model(runner, runner.run(opened.__aenter__()), format, tokenizer, format.mark([special]), ids)
        runner.run(opened.__aexit__(None, None, None))


def _counted(usage: dict[str, Any]) -> dict[str, Any]:
    """Token counts without those found in the cache, of which the twin that comes second has more."""
    return {name: count for name, count in usage.items() if name != "prompt_tokens_details"}


def _said(whole: dict[str, Any]) -> dict[str, Any]:
    (choice,) = whole["choices"]
    message = choice["message"]
    return {
        "content": message["content"] or "",
        "calls": [call["function"] for call in message.get("tool_calls", [])],
        "reason": choice["finish_reason"],
        "usage": _counted(whole["usage"]),
        "logprobs": choice["logprobs"]["content"],
    }


def _joined(chunks: list[dict[str, Any]]) -> dict[str, Any]:
    """The same of the chunks of a stream, put together as clients do."""
    *chunks, last = chunks
    choices = [chunk["choices"][0] for chunk in chunks]
    assert [choice["finish_reason"] for choice in choices[:-1]] == [None] * (len(choices) - 1)
    calls: list[dict[str, str]] = []
    for call in (call for choice in choices for call in choice["delta"].get("tool_calls", [])):
        if "id" in call:
            assert call["index"] == len(calls)
            calls.append({"name": call["function"]["name"], "arguments": ""})
        calls[call["index"]]["arguments"] += call["function"]["arguments"]
    return {
        "content": "".join(choice["delta"].get("content") or "" for choice in choices),
        "calls": calls,
        "reason": choices[-1]["finish_reason"],
        "usage": _counted(last["usage"]),
        "logprobs": [token for choice in choices for token in choice["logprobs"]["content"]],
    }


TOOLS = [{"type": "function", "function": {"name": name, "parameters": {"type": "object"}}} for name in ("f", "g")]
PIECES = [
    "a", "b ", "\n", " ", "é", "🙂", '"', "{", "}", "<", "<tool", "_call>", "<tool_call>", "</tool_call>", "[", "[TOOL",
    "_CALLS]", '{"name"', ': "f", ', "]",
]  # fmt: skip
CONTENT = st.lists(st.sampled_from(PIECES), max_size=6).map("".join)
STOPS = st.lists(
    st.sampled_from(
        ["\n", "}", '"', "<", "<tool", "ool_c", "\n<tool", "[", "] ", "a", "ab", "}\n", "🙂", '": "', "b "]
    ),
    max_size=3,
    unique=True,
)
VALUES = st.recursive(
    st.integers() | st.sampled_from(['a "}{" b\\', "\n</tool_call>", "[TOOL_CALLS] [", "é🙂", ""]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["x", "}", "<tool_call>\n"]), inner),
    max_leaves=4,
)
CALLS = st.lists(st.tuples(st.sampled_from("fg"), st.dictionaries(st.sampled_from(["place", "ü"]), VALUES)), max_size=2)
CUTS = st.sets(st.integers(1, 120), max_size=20)


def written(format: ToolFormat, calls: Sequence[tuple[str, Any]]) -> tuple[str, list[dict[str, str]]]:
    """Calls as a model writes them, and as the answer tells them."""
    told = [{"name": name, "arguments": json.dumps(arguments, ensure_ascii=False)} for name, arguments in calls]
    texts = [f'{{"name": "{call["name"]}", "{format.arguments}": {call["arguments"]}}}' for call in told]
    return (format.begin + (format.between or "").join(texts) + format.end if calls else ""), told


def before_stop(text: str, stops: Sequence[str]) -> str | None:
    """The text before the stop sequence that is complete first, None where there is none."""
    for end in range(1, len(text) + 1):
        ending = [stop for stop in stops if text[:end].endswith(stop)]
        if ending:
            return text[: end - max(map(len, ending))]
    return None


FAST = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@FAST
@given(before=CONTENT, calls=CALLS, stops=STOPS, cuts=CUTS, required=st.booleans(), ends=st.booleans())
def test_calls_and_stop_sequences(
    model: Model, before: str, calls: list[Any], stops: list[str], cuts: set[int], required: bool, ends: bool
) -> None:
    """Stop sequences count in the content and nowhere else; calls are told as they were written."""
    before = "" if required or (calls and not model.format.begin) else before
    calls = calls if model.format.between else calls[:1]
    framed, told = written(model.format, calls)
    text = before + framed
    assume(calls or not required)
    assume(text.find(model.mark.text) in (len(before), -1) and model.mark.text not in framed[1:])
    ids = model.written(text, cuts)
    assume(ids)
    body = {"tools": TOOLS, "tool_choice": "required" if required else "auto", "stop": stops}
    whole, streamed = model.twins(ids + [EOS_ID] * ends, body | {"max_tokens": len(ids) + ends})
    assert whole == streamed
    content = None if required else before_stop(before, stops)
    if content is not None:
        assert (whole["content"], whole["calls"], whole["reason"]) == (content, [], "stop")
        return
    assert whole["content"] == (before if before.strip() or not calls else "") and whole["calls"] == told
    assert whole["reason"] == ("length" if not ends else "tool_calls" if calls else "stop")


@FAST
@given(
    pieces=st.lists(
        st.sampled_from([*PIECES, "\n", '{"name": "g", "arguments": ', '{"x": 1}', "<tool_call>\n"]), min_size=1
    ),
    stops=STOPS,
    cuts=CUTS,
    fields=st.fixed_dictionaries(
        {},
        optional={
            "tool_choice": st.sampled_from(["auto", "required", "none"]),
            "response_format": st.sampled_from([{"type": "text"}, {"type": "json_object"}]),
            "tools": st.just(TOOLS),
        },
    ),
    most=st.integers(1, 60),
)
def test_any_text(
    model: Model, pieces: list[str], stops: list[str], cuts: set[int], fields: dict[str, Any], most: int
) -> None:
    """Also what no grammar would let a model write, cut off anywhere."""
    assume("tools" in fields or fields.get("tool_choice") != "required")
    together = "tools" in fields and fields.get("tool_choice", "auto") == "auto" and not model.format.begin
    assume(not (together and fields.get("response_format") == {"type": "json_object"}))
    ids = model.written("".join(pieces), cuts)
    whole, streamed = model.twins(ids, fields | {"stop": stops, "max_tokens": most})
    assert whole == streamed
    if "tools" not in fields or fields.get("tool_choice") == "none":
        assume(not model.mark.special or model.mark.text not in "".join(pieces))
        text = model.tokenizer.decode(ids[:most]).rstrip("\ufffd")
        expected = before_stop(text, stops)
        assert whole["content"] == (text if expected is None else expected)
        assert whole["reason"] == ("stop" if expected is not None or len(ids) < most else "length")

"""What a model thinks before it answers: told apart, whole and streamed, and counted."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.router_app import EOS_ID, TOKENIZER, Router, says, says_ids, started
from tests.unit.router.openai.test_openai import HELLO, post, stream
from tgi_server.types import NewSequence

CHAT = "/v1/chat/completions"
TURNS = (
    "{% for message in messages %}[{{ message.role }}]{{ message.reasoning_content }}"
    "{{ message.content.split('</think>')[-1] }}{% endfor %}[assistant]"
)
MAY = TURNS + "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}"
BEGUN = TURNS + "<think>\n"
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
CALL = '<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>'


@dataclass
class Told:
    """What a client makes of an answer."""

    content: str = ""
    thoughts: str = ""
    calls: list[str] = field(default_factory=list)
    finish: str | None = None
    tokens: list[str] = field(default_factory=list)


def whole_of(answer: Any) -> Told:
    (choice,) = answer["choices"]
    message = choice["message"]
    assert message.get("reasoning") == message.get("reasoning_content")
    calls = [call["function"]["arguments"] for call in message.get("tool_calls", [])]
    tokens = [token["token"] for token in choice["logprobs"]["content"]] if choice["logprobs"] else []
    thoughts = message.get("reasoning_content", "")
    return Told(message["content"] or "", thoughts, calls, choice["finish_reason"], tokens)


def joined(chunks: list[Any]) -> Told:
    told = Told()
    for choice in (choice for chunk in chunks for choice in chunk["choices"]):
        delta = choice["delta"]
        assert delta.get("reasoning") == delta.get("reasoning_content")
        assert not (told.content and "reasoning" in delta)
        told.thoughts += delta.get("reasoning_content", "")
        told.content += delta.get("content", "")
        for call in delta.get("tool_calls", []):
            told.calls += [""] * (call["index"] == len(told.calls))
            told.calls[-1] += call["function"]["arguments"]
        told.finish = choice["finish_reason"] or told.finish
        told.tokens += [token["token"] for token in (choice["logprobs"] or {"content": []})["content"]]
    return told


async def both(text: str, template: str, fields: dict[str, Any] | None = None, **options: Any) -> tuple[Told, Any]:
    """What both kinds of answer tell, and the token counts."""
    body = {"messages": HELLO, "logprobs": True} | (fields or {})
    async with started(says(text), template=template, **options) as router:
        status, whole, _ = await post(router, CHAT, body)
        assert status == 200, whole
        *chunks, last = await stream(router, CHAT, body | {"stream_options": {"include_usage": True}})
    assert joined(chunks) == whole_of(whole)
    for usage in (last["usage"], whole["usage"]):
        del usage["prompt_tokens_details"]  # the second one finds the prompt in the cache
    assert last["usage"] == whole["usage"]
    return whole_of(whole), whole["usage"]


def length(text: str) -> int:
    return len(TOKENIZER.encode(text).ids)


@pytest.mark.parametrize("begun", [False, True])
async def test_thoughts_are_told_apart(begun: bool) -> None:
    thoughts, content = "the fox\nis brown", "Paris is the capital."
    before = ("" if begun else "<think>\n") + f"{thoughts}\n</think>\n\n"
    told, usage = await both(before + content, BEGUN if begun else MAY)
    assert (told.content, told.thoughts, told.finish) == (content, thoughts, "stop")
    assert "".join(told.tokens) == content
    assert usage["completion_tokens_details"] == {"reasoning_tokens": length(before)}
    assert usage["completion_tokens"] == length(before + content) + 1


async def test_an_answer_without_thoughts() -> None:
    for text in ("Paris", "<thin", " <", "Paris <think>is</think>"):
        told, usage = await both(text, MAY)
        assert (told.content, told.thoughts) == (text, "") and "".join(told.tokens) == text
        assert usage["completion_tokens_details"] == {"reasoning_tokens": 0}


async def test_thoughts_that_do_not_end() -> None:
    told, usage = await both("the fox is brown", BEGUN, {"max_tokens": 4})
    assert (told.content, told.finish, told.tokens) == ("", "length", []) and told.thoughts.startswith("the fox")
    assert usage["completion_tokens_details"] == {"reasoning_tokens": 4} and usage["completion_tokens"] == 4


async def test_thoughts_may_be_switched_off_in_the_prompt() -> None:
    kwargs: list[dict[str, Any]] = [{"reasoning_effort": "none"}, {"chat_template_kwargs": {"enable_thinking": False}}]
    for fields in kwargs:
        told, _ = await both("<think>fox</think>", MAY, fields)
        assert (told.content, told.thoughts) == ("<think>fox</think>", "")
    told, _ = await both("<think>fox</think>", MAY, {"reasoning_effort": "high"})
    assert (told.content, told.thoughts) == ("", "fox")


async def test_the_option_leaves_thoughts_in_the_text() -> None:
    told, usage = await both("fox</think>Paris", BEGUN, reasoning=False)
    assert (told.content, told.thoughts) == ("fox</think>Paris", "")
    assert usage["completion_tokens_details"] == {"reasoning_tokens": 0}


async def test_thoughts_may_be_left_out() -> None:
    told, usage = await both("fox</think>Paris", BEGUN, {"include_reasoning": False})
    assert (told.content, told.thoughts) == ("Paris", "") and "".join(told.tokens) == "Paris"
    assert usage["completion_tokens_details"] == {"reasoning_tokens": length("fox</think>")}


async def test_a_call_begins_after_the_thoughts() -> None:
    text = f"<think>\nI could {CALL}\n</think>\n\n{CALL}"
    for choice in ("auto", "required"):
        told, _ = await both(text, MAY, {"tools": TOOLS, "tool_choice": choice, "stop": ["fox", "{"]})
        assert (told.content, told.thoughts) == ("", f"I could {CALL}")
        assert (told.calls, told.finish) == (['{"a": 1}'], "tool_calls")


async def test_choices_are_counted_together() -> None:
    def thinks(new: NewSequence, position: int) -> int:
        """As much as its seed says."""
        text = "<think>" + "a" * new.sampling.seed + "</think>b"
        return says(text)(new, position)

    async with started(thinks, template=MAY) as router:
        _, whole, _ = await post(router, CHAT, {"messages": HELLO, "n": 2, "seed": 3})
    assert [choice["message"]["reasoning"] for choice in whole["choices"]] == ["aaa", "aaaa"]
    tokens = sum(length("<think>" + "a" * count + "</think>") for count in (3, 4))
    assert whole["usage"]["completion_tokens_details"] == {"reasoning_tokens": tokens}


async def test_a_guide_lets_thoughts_come_first() -> None:
    formats: list[dict[str, Any]] = [{"response_format": {"type": "json_object"}}, {"tools": TOOLS}]
    async with started(says("fox</think>"), template=BEGUN) as router:
        for fields in formats:
            assert (await post(router, CHAT, {"messages": HELLO} | fields))[0] == 200
        guides = [new.sampling.guide for plan in router.shards.plans for new in plan.new]
    assert all(guide and '"start: thoughts @answer' in guide.grammar for guide in guides)
    close = tuple(TOKENIZER.encode("</think>").ids)
    assert [guide.close for guide in guides if guide] == [close, ()], "any text will do beside tools that may be used"


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
async def test_earlier_thoughts_are_handed_to_the_template(name: str) -> None:
    turns = [*HELLO, {"role": "assistant", "content": "Paris", name: "the fox"}, *HELLO]
    async with started(says("!"), template=MAY) as router:
        assert (await post(router, CHAT, {"messages": turns}))[0] == 200
        (prompt,) = (TOKENIZER.decode(new.prompt_ids) for plan in router.shards.plans for new in plan.new)
    assert "[assistant]the foxParis[user]" in prompt


async def test_a_thought_that_is_gone_on_with() -> None:
    turns = [*HELLO, {"role": "assistant", "content": "<think>the fox"}]
    async with started(says(" is</think>Paris"), template=MAY) as router:
        body = {"messages": turns, "continue_final_message": True}
        _, whole, _ = await post(router, CHAT, body)
        assert whole_of(whole) == Told("Paris", " is", finish="stop")
        turns[-1]["content"] = "Paris"
        _, whole, _ = await post(router, CHAT, body)
        assert whole_of(whole).content == " is</think>Paris"


class Served:
    """A router whose model says what it is told to."""

    def __init__(self, runner: asyncio.Runner, begun: bool) -> None:
        self._runner = runner
        self.ids: list[int] = []
        self._opened = started(lambda new, at: says_ids(self.ids)(new, at), template=BEGUN if begun else MAY)
        self._router: Router = runner.run(self._opened.__aenter__())

    def close(self) -> None:
        self._runner.run(self._opened.__aexit__(None, None, None))

    def told(self, ids: list[int], body: Any) -> tuple[Told, Told]:
        self.ids = ids

        async def ask() -> tuple[Told, Told]:
            status, whole, _ = await post(self._router, CHAT, body)
            assert status == 200, whole
            return whole_of(whole), joined(await stream(self._router, CHAT, body))

        return self._runner.run(ask())


@pytest.fixture(scope="module")
def served() -> Iterator[dict[bool, Served]]:
    with asyncio.Runner() as runner:
        routers = {begun: Served(runner, begun) for begun in (False, True)}
        yield routers
        for router in routers.values():
            router.close()


PIECES = ["<think>", "</think>", "<th", "</th", "\n", "\n\n", "fox", "!", " ", CALL, CALL[:30], "<tool_call>", "é"]


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    pieces=st.lists(st.sampled_from(PIECES) | st.text(st.sampled_from("<think>/a\n"), max_size=6), max_size=8),
    begun=st.booleans(),
    opened=st.booleans(),
    cuts=st.lists(st.integers(0, 150), max_size=5),
    stop=st.lists(st.sampled_from(["!", "fox", "k>", "<", "\n", "}"]), max_size=2, unique=True),
    tools=st.sampled_from([None, "auto", "required"]),
    budget=st.none() | st.integers(1, 60),
    hidden=st.booleans(),
)
def test_a_stream_and_its_unstreamed_twin_say_the_same(
    served: dict[bool, Served],
    pieces: list[str],
    begun: bool,
    opened: bool,
    cuts: list[int],
    stop: list[str],
    tools: str | None,
    budget: int | None,
    hidden: bool,
) -> None:
    """Tokens are cut at random places, so that marks are."""
    text = "<think>" * (opened and not begun) + "".join(pieces)
    places = [0, *sorted(cut for cut in cuts if cut < len(text)), len(text)]
    ids = [id for start, end in pairwise(places) for id in TOKENIZER.encode(text[start:end]).ids]
    body = {"messages": HELLO, "stop": stop, "logprobs": True, "max_tokens": budget}
    body |= {"include_reasoning": not hidden}
    body |= {"tools": TOOLS, "tool_choice": tools} if tools else {}
    whole, streamed = served[begun].told([*ids, EOS_ID], body)
    assert whole == streamed, json.dumps(text)
    assert not hidden or not whole.thoughts
    if not tools:
        assert "".join(whole.tokens).endswith(whole.content)
    if not (stop or tools or budget or hidden):
        thinks = begun or text.lstrip().startswith("<think>")
        assert whole.content in text and whole.thoughts in text and (thinks or not whole.thoughts)

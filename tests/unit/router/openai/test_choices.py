"""Several choices, echoed prompts and calls of functions, whole and streamed."""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from typing import Any

import pytest

from tests.router_app import EOS_ID, TOKENIZER, says, started
from tests.unit.router.openai.test_openai import HELLO, post, stream
from tgi_server.types import NewSequence

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"


def seeded(new: NewSequence, position: int) -> int:
    """A model that writes as many `a` as its seed says, then ends."""
    return int(TOKENIZER.encode("a").ids[0]) if position - len(new.prompt_ids) < new.sampling.seed else EOS_ID


async def test_n_choices() -> None:
    prompts: list[tuple[str, dict[str, Any]]] = [(CHAT, {"messages": HELLO}), (COMPLETIONS, {"prompt": "x"})]
    async with started(seeded, prefix_caching=False) as router:
        for path, prompt in prompts:
            body = prompt | {"n": 3, "seed": 1}
            _, whole, _ = await post(router, path, body)
            shown = [choice.get("text") or choice["message"]["content"] for choice in whole["choices"]]
            assert shown == ["a", "aa", "aaa"]
            assert [choice["index"] for choice in whole["choices"]] == [0, 1, 2]
            assert whole["usage"]["completion_tokens"] == 2 + 3 + 4
            chunks = await stream(router, path, body | {"stream_options": {"include_usage": True}})
            assert chunks[-1]["usage"] == whole["usage"]
            assert _texts(chunks) == {0: "a", 1: "aa", 2: "aaa"}
            reasons = [choice["finish_reason"] for chunk in chunks for choice in chunk["choices"]]
            assert reasons.count("stop") == 3 and set(reasons) == {"stop", None}
        assert router.metric("tgi_request_count") == router.metric("tgi_request_success") == 4
        assert router.engine.running == router.engine.waiting == 0


def _texts(chunks: list[Any]) -> dict[int, str]:
    texts: dict[int, str] = defaultdict(str)
    for choice in (choice for chunk in chunks for choice in chunk["choices"]):
        texts[choice["index"]] += choice["text"] if "text" in choice else choice["delta"].get("content", "")
    return dict(texts)


async def test_each_choice_begins_with_the_role() -> None:
    async with started(seeded) as router:
        chunks = await stream(router, CHAT, {"messages": HELLO, "n": 2, "seed": 2})
    begun = set()
    for choice in (chunk["choices"][0] for chunk in chunks):
        assert ("role" in choice["delta"]) == (choice["index"] not in begun)
        begun.add(choice["index"])


async def test_several_prompts() -> None:
    async with started(says("Paris.")) as router:
        for prompt in (["a", "b c"], [[5, 6], [7]]):
            body = {"prompt": prompt, "n": 2, "echo": True}
            _, whole, _ = await post(router, COMPLETIONS, body)
            first, second = (p if isinstance(p, str) else TOKENIZER.decode(p) for p in prompt)
            assert [choice["text"] for choice in whole["choices"]] == [first + "Paris."] * 2 + [second + "Paris."] * 2
            chunks = await stream(router, COMPLETIONS, body)
            assert list(_texts(chunks).values()) == [choice["text"] for choice in whole["choices"]]
        assert whole["usage"]["prompt_tokens"] == 3


async def test_best_of_gives_the_likeliest() -> None:
    body = {"prompt": ["x", "y"], "best_of": 4, "n": 2, "logprobs": 0, "seed": 1}
    async with started(seeded, max_best_of=4) as router:
        router.shards.model.logprob = lambda new: -[9.0, 0.5, 3.0, 0.7, 5.0][new.sampling.seed]
        _, whole, _ = await post(router, COMPLETIONS, body)
    assert [choice["index"] for choice in whole["choices"]] == [0, 1, 2, 3]
    assert [choice["text"] for choice in whole["choices"]] == ["a", "aaa"] * 2
    assert whole["usage"]["completion_tokens"] == 2 * (2 + 3 + 4 + 5), "all that were generated count"


async def test_a_place_for_each_text() -> None:
    async with started(max_concurrent_requests=3) as router:
        assert (await post(router, COMPLETIONS, {"prompt": "x", "n": 3}))[0] == 200
        assert (await post(router, COMPLETIONS, {"prompt": ["x", "y"], "n": 2}))[0] == 400, "it can never run"
        with router.engine.permit():
            assert (await post(router, COMPLETIONS, {"prompt": "x", "n": 3}))[0] == 429
            assert (await post(router, COMPLETIONS, {"prompt": "x", "n": 2}))[0] == 200


async def test_one_failing_choice_fails_the_request() -> None:
    async with started(seeded) as router:
        body = {"prompt": "x", "n": 2, "seed": 3}
        router.shards.model.failures[1] = "out of memory"
        assert (await post(router, COMPLETIONS, body))[0] == 500
        router.shards.model.failures[3] = "out of memory"
        assert (await stream(router, COMPLETIONS, body))[-1]["error"]["code"] == "generation"
        assert router.engine.running == router.engine.waiting == 0


async def test_echo_with_logprobs() -> None:
    """What lm-eval reads: every prompt token, and one generated one, even if it is the end."""
    async with started(says("")) as router:
        ids = TOKENIZER.encode("the fox").ids
        body = {"prompt": ids, "echo": True, "logprobs": 1, "max_tokens": 1, "temperature": 0}
        _, whole, _ = await post(router, COMPLETIONS, body)
        logprobs = whole["choices"][0]["logprobs"]
        assert whole["choices"][0]["text"] == "the fox" and len(logprobs["tokens"]) == len(ids) + 1
        assert logprobs["token_logprobs"] == [None] + [-1.0] * (len(ids) - 1) + [-0.5]
        assert logprobs["top_logprobs"][0] is None and all(len(top) == 1 for top in logprobs["top_logprobs"][1:])
        assert logprobs["text_offset"][:2] == [0, len(logprobs["tokens"][0])]
        (chunk,) = await stream(router, COMPLETIONS, body)
        assert chunk["choices"] == whole["choices"]


async def test_the_tokens_of_an_echo_are_the_text() -> None:
    """Also those that end within a character; alternatives stand by themselves."""
    async with started(says(" à Zürich")) as router:
        body = {"prompt": "été 🙂<|end|> é", "echo": True, "logprobs": 1, "max_tokens": 12, "temperature": 0}
        _, whole, _ = await post(router, COMPLETIONS, body)
        text, logprobs = whole["choices"][0]["text"], whole["choices"][0]["logprobs"]
        assert text == "été 🙂<|end|> é à Zürich" and "\ufffd" not in "".join(logprobs["tokens"])
        assert "".join(logprobs["tokens"]) == f"{text}<|end|>"
        *offsets, end = zip(logprobs["text_offset"], logprobs["tokens"], strict=True)
        assert all(text.startswith(token, offset) for offset, token in offsets) and end == (len(text), "<|end|>")


async def test_nothing_but_the_prompt() -> None:
    async with started(says("Paris.")) as router:
        body = {"prompt": "the fox", "echo": True, "max_tokens": 0, "logprobs": 0}
        _, whole, _ = await post(router, COMPLETIONS, body)
        assert whole["choices"][0]["text"] == "the fox" and whole["choices"][0]["finish_reason"] == "length"
        assert whole["usage"]["completion_tokens"] == 0
        assert (await post(router, COMPLETIONS, {"prompt": "x", "max_tokens": 0}))[0] == 400


TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]
ARGUMENTS = '{"place": "Bern {\\"x\\"}", "days": [1, 2]}'
CALL = f'<tool_call>\n{{"name": "weather", "arguments": {ARGUMENTS}}}\n</tool_call>'


def calls_of(chunks: list[Any]) -> list[dict[str, Any]]:
    """The calls in the chunks of a stream, put together as clients do."""
    calls: list[dict[str, Any]] = []
    for delta in (chunk["choices"][0]["delta"] for chunk in chunks):
        for part in delta.get("tool_calls", []):
            if part["index"] == len(calls):
                assert part["type"] == "function" and part["id"]
                calls.append({"name": part["function"]["name"], "arguments": ""})
            calls[part["index"]]["arguments"] += part["function"]["arguments"]
    return calls


@pytest.mark.parametrize("choice", ["auto", "required", {"type": "function", "function": {"name": "weather"}}], ids=str)
async def test_calls(choice: Any) -> None:
    text = f"{CALL}\n{CALL}"
    body = {"messages": HELLO, "tools": TOOLS, "tool_choice": choice, "logprobs": True}
    async with started(says(text)) as router:
        _, whole, _ = await post(router, CHAT, body)
        chunks = await stream(router, CHAT, body)
    (answer,) = whole["choices"]
    assert answer["finish_reason"] == "tool_calls" and answer["message"]["content"] is None
    calls = answer["message"]["tool_calls"]
    assert [call["function"] for call in calls] == [{"name": "weather", "arguments": ARGUMENTS}] * 2
    assert len({call["id"] for call in calls}) == 2 and {call["type"] for call in calls} == {"function"}
    assert calls_of(chunks) == [call["function"] for call in calls]
    assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"
    told = [token for chunk in chunks for token in chunk["choices"][0]["logprobs"]["content"]]
    assert told == answer["logprobs"]["content"] and "".join(token["token"] for token in told) == text


@pytest.mark.parametrize("text", ["Hello <tool", "<", "It is {fine}."])
async def test_an_answer_without_calls(text: str) -> None:
    body = {"messages": HELLO, "tools": TOOLS}
    async with started(says(text)) as router:
        _, whole, _ = await post(router, CHAT, body)
        chunks = await stream(router, CHAT, body)
    assert whole["choices"][0]["message"] == {"role": "assistant", "content": text, "refusal": None}
    assert whole["choices"][0]["finish_reason"] == chunks[-1]["choices"][0]["finish_reason"] == "stop"
    assert _texts(chunks) == {0: text}


async def test_text_before_a_call_and_a_call_cut_off() -> None:
    async with started(says(f"So: {CALL}")) as router:
        body = {"messages": HELLO, "tools": TOOLS}
        _, whole, _ = await post(router, CHAT, body)
        assert whole["choices"][0]["message"]["content"] == "So: "
        assert _texts(await stream(router, CHAT, body)) == {0: "So: "}
        tokens = len(TOKENIZER.encode(f"So: {CALL[:60]}").ids)
        _, whole, _ = await post(router, CHAT, body | {"max_tokens": tokens})
        assert whole["choices"][0]["finish_reason"] == "length"
        (call,) = whole["choices"][0]["message"]["tool_calls"]
        assert ARGUMENTS.startswith(call["function"]["arguments"])


STOPS = ["}", "<tool", "\n", '"']


@pytest.mark.parametrize("before", ["", "So:", "\t "])
async def test_stop_sequences_never_cut_a_call(before: str) -> None:
    """Whatever they match of its arguments and of what is written around it."""
    text = f"{before}{CALL}"
    for choice in ("auto", "required") if not before else ("auto",):
        body = {"messages": HELLO, "tools": TOOLS, "tool_choice": choice, "stop": STOPS, "max_tokens": 150}
        async with started(says(text)) as router:
            _, whole, _ = await post(router, CHAT, body)
            chunks = await stream(router, CHAT, body)
        (answer,) = whole["choices"]
        assert [call["function"]["arguments"] for call in answer["message"]["tool_calls"]] == [ARGUMENTS]
        assert answer["message"]["content"] == (before.strip() or None)
        assert answer["finish_reason"] == chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"
        assert calls_of(chunks) == [{"name": "weather", "arguments": ARGUMENTS}]
        assert _texts(chunks) == {0: before.strip()}


@pytest.mark.parametrize("text", ["It is <tool", "It is <tool box", f"It is \n{CALL}", "It is }"])
async def test_stop_sequences_cut_content_beside_tools(text: str) -> None:
    body = {"messages": HELLO, "tools": TOOLS, "stop": STOPS, "max_tokens": 150}
    async with started(says(text)) as router:
        _, whole, _ = await post(router, CHAT, body)
        chunks = await stream(router, CHAT, body)
    assert whole["choices"][0]["message"] == {"role": "assistant", "content": "It is ", "refusal": None}
    assert whole["choices"][0]["finish_reason"] == chunks[-1]["choices"][0]["finish_reason"] == "stop"
    assert _texts(chunks) == {0: "It is "} and not calls_of(chunks)


async def test_earlier_calls_are_part_of_the_conversation() -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": ARGUMENTS}}
    turns = [
        *HELLO,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "sunny"},
    ]
    async with started(says("Sunny.")) as router:
        status, whole, _ = await post(router, CHAT, {"messages": turns, "tools": TOOLS})
        assert status == 200 and whole["choices"][0]["message"]["content"] == "Sunny."
        (prompt,) = (TOKENIZER.decode(new.prompt_ids) for plan in router.shards.plans for new in plan.new)
        assert f'"arguments": {json.dumps(json.loads(ARGUMENTS))}' in prompt and "sunny" in prompt
        call["function"]["arguments"] = "[]"  # type: ignore[index]
        status, answer, _ = await post(router, CHAT, {"messages": turns})
        assert (status, answer["error"]["param"]) == (400, "messages[1].tool_calls")


async def test_a_grammar_that_turns_out_to_be_too_much() -> None:
    """That is the request's fault: no other one and no health check takes notice."""
    grammar = {"type": "regex", "value": "a+"}
    async with started() as router:
        await router.engine.health()
        for path, body, status in (
            (COMPLETIONS, {"prompt": "x", "response_format": grammar}, 400),
            ("/generate", {"inputs": "x", "parameters": {"grammar": grammar}}, 422),
        ):
            router.shards.model.unguided[len(router.shards.model._ever)] = "too many expressions"
            got, answer, _ = await post(router, path, body)
            assert got == status and "too many expressions" in json.dumps(answer)
        assert router.metric('tgi_request_failure{err="validation"}') == 2
        plans = len(router.shards.plans)
        await router.engine.health()
        assert len(router.shards.plans) == plans, "nothing had to be proven again"


async def test_large_grammars_keep_nobody_else_waiting() -> None:
    properties = {f"k{index}": {"type": "string", "pattern": "^[a-z]{1,40}x$"} for index in range(900)}
    large = {
        "messages": HELLO,
        "response_format": {"type": "json", "value": {"type": "object", "properties": properties}},
    }
    async with started(says("Paris."), validation_workers=1) as router:
        slow = [asyncio.create_task(post(router, CHAT, large)) for _ in range(4)]
        await asyncio.sleep(0.01)
        assert (await post(router, CHAT, {"messages": HELLO}))[0] == 200
        assert not all(task.done() for task in slow)
        assert len({(await task)[0] for task in slow}) == 1


async def test_a_model_that_cannot_be_guided() -> None:
    async with started(unguided="no such tokenizer") as router:
        for fields in ({"response_format": {"type": "json_object"}}, {"tools": TOOLS}):
            status, answer, _ = await post(router, CHAT, {"messages": HELLO} | fields)
            assert status == 400 and "no such tokenizer" in answer["error"]["message"]
        grammar = {"inputs": "x", "parameters": {"grammar": {"type": "regex", "value": "a"}}}
        assert (await post(router, "/generate", grammar))[0] == 422
        assert (await post(router, CHAT, {"messages": HELLO}))[0] == 200


async def test_a_grammar_reaches_the_shards() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    format = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema, "strict": True}}
    async with started() as router:
        await post(router, CHAT, {"messages": HELLO, "response_format": format, "max_tokens": 5})
        await post(router, "/generate", {"inputs": "x", "parameters": {"grammar": {"type": "regex", "value": "a+"}}})
        guides = [new.sampling.guide for plan in router.shards.plans for new in plan.new]
        assert guides[0] and guides[0].max_tokens == 5 and '"integer"' in guides[0].grammar
        assert guides[1] and guides[1].max_tokens == 100 and "a+" in guides[1].grammar
        broken = {"inputs": "x", "parameters": {"grammar": {"type": "regex", "value": "("}}}
        status, answer, _ = await post(router, "/generate", broken)
        assert (status, answer["error_type"]) == (422, "validation")

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest

from tests.router_app import TOKENIZER, Router, says, started
from tgi_server.config.schema import ServerConfig
from tgi_server.errors import ValidationError
from tgi_server.router.http.calls import Calls
from tgi_server.router.http.errors import error_body
from tgi_server.router.http.limits import Limits
from tgi_server.router.http.recording import Recorder
from tgi_server.router.http.stream import KEEP_ALIVE, Framing, complete, token_chunks
from tgi_server.router.native import rendering, rules
from tgi_server.router.native.requests import GenerateBody, Parameters
from tgi_server.telemetry.tracing import Untraced


def opening(
    router: Router,
    pool: ThreadPoolExecutor,
    max_new_tokens: int,
    inputs: str = "x",
    recorder: Recorder | None = None,
) -> tuple[Any, Any]:
    limits = Limits.of(ServerConfig(), ServerConfig(), router.engine.info)
    calls = Calls(router.engine, TOKENIZER, limits, pool, pool, router.metrics, Untraced(), recorder)
    parameters = Parameters(max_new_tokens=max_new_tokens)
    prepare = partial(rules.prepare, GenerateBody(inputs, parameters))
    return calls.begin(prepare, parameters, lambda: 1), rendering.StreamAnswer(parameters, "").events


async def test_comments_while_nothing_comes() -> None:
    with ThreadPoolExecutor(1) as pool:
        async with started(step_seconds=0.1) as router:
            chunks = [chunk async for chunk in token_chunks(*opening(router, pool, 2), keep_alive=0.03)]
    comments = [chunk for chunk in chunks if chunk == KEEP_ALIVE]
    assert KEEP_ALIVE.startswith(b":") and len(comments) >= 4
    assert len([chunk for chunk in chunks if chunk.startswith(b"data:")]) == 2


async def test_an_api_may_write_events_its_own_way() -> None:
    framing = Framing(event=lambda data: b"<event>", silence=b"<silence>", end=b"<end>")
    with ThreadPoolExecutor(1) as pool:
        async with started(step_seconds=0.1) as router:
            call, render = opening(router, pool, 2)
            chunks = token_chunks(call, render, lambda call: [{"type": "begin"}], keep_alive=0.06, framing=framing)
            written = b"".join([chunk async for chunk in complete(chunks, error_body, framing=framing)])
    assert written.startswith(b"<event><silence>") and written.endswith(b"<event><end>")
    assert written.replace(b"<silence>", b"") == b"<event>" * 3 + b"<end>"


async def test_events_that_wait_are_written_at_once() -> None:
    with ThreadPoolExecutor(1) as pool:
        async with started(step_seconds=0.001) as router:
            sizes = []
            async for chunk in token_chunks(*opening(router, pool, 60)):
                sizes.append(chunk.count(b"data: "))
                await asyncio.sleep(0.02)  # a slow reader
    assert sum(sizes) == 60 and len(sizes) < 30


async def test_the_first_item_tells_that_the_request_is_admitted() -> None:
    with ThreadPoolExecutor(1) as pool:
        async with started() as router:
            chunks = token_chunks(*opening(router, pool, 3))
            assert await anext(chunks) == b""
            await chunks.aclose()
            assert router.engine.running == router.engine.waiting == 0
            assert router.metric('tgi_request_failure{err="dropped"}') == 1
            with pytest.raises(ValidationError):
                await anext(token_chunks(*opening(router, pool, 3, inputs="")))


async def test_a_stream_nobody_starts_holds_nothing() -> None:
    with ThreadPoolExecutor(1) as pool:
        async with started(max_concurrent_requests=1) as router:
            await complete(token_chunks(*opening(router, pool, 3)), error_body).aclose()
            with router.engine.permit():
                pass
            assert router.metric("tgi_request_count") == 0


async def test_errors_end_the_stream() -> None:
    with ThreadPoolExecutor(1) as pool:
        async with started(step_seconds=0.01) as router:
            written = []
            async for chunk in complete(
                token_chunks(*opening(router, pool, 50)), error_body, framing=Framing(end=b"end")
            ):
                written.append(chunk)
                if len(written) == 2:
                    router.shards.kill("shard 0 died")
    assert written[0].startswith(b'data: {"index":1')
    *_, error, end = written
    message = b"Request failed during generation: shard 0 died"
    assert error == b'data: {"error":"%b","error_type":"generation"}\n\n' % message and end == b"end"


SPLIT = "ok é😀é ok"
"""Its emoji is four tokens, one a byte."""


def shown(path: str, stream: str) -> list[str]:
    """The texts of the tokens of a stream, as far as they belong to the generated text."""
    data = [json.loads(line.removeprefix("data: ")) for line in stream.split("\n\n") if line.startswith("data: {")]
    if path == "/generate_stream":
        return [event["token"]["text"] for event in data if not event["token"]["special"]]
    if path == "/v1/completions":
        return [chunk["choices"][0]["text"] for chunk in data]
    return [chunk["choices"][0]["delta"].get("content") or "" for chunk in data]


@pytest.mark.parametrize("path", ["/generate_stream", "/v1/completions", "/v1/chat/completions"])
@pytest.mark.parametrize(
    ("tokens", "stop", "text"),
    [
        (100, [], SPLIT),
        *((tokens, [], "ok é") for tokens in range(5, 8)),  # the end is inside the emoji
        (8, [], "ok é😀"),
        (100, ["😀é"], "ok é😀é"),
        (100, ["\N{GRINNING FACE WITH SMILING EYES}"], SPLIT),  # differs from the emoji in its last byte
    ],
)
async def test_no_half_characters(path: str, tokens: int, stop: list[str], text: str) -> None:
    body: dict[str, Any] = {"stream": True, "max_tokens": tokens, "stop": stop}
    body |= {"inputs": "x", "parameters": {"max_new_tokens": tokens, "stop": stop}}
    body |= {"prompt": "x", "messages": [{"role": "user", "content": "x"}]}
    async with started(says(SPLIT)) as router:
        response = await router.app.test_client().post(path, json=body)
        texts = shown(path, await response.get_data(as_text=True))
    assert "".join(texts) == (text.removesuffix(stop[0]) if stop and path.startswith("/v1/") else text)
    assert "\ufffd" not in "".join(texts) and len(texts) > 1

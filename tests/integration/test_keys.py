"""Clients and the load generator against a router that has API keys."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest
import pytest_asyncio
from anthropic import AsyncAnthropic
from huggingface_hub import AsyncInferenceClient
from huggingface_hub.errors import TextGenerationError
from openai import AsyncOpenAI

from tests.integration.listening import listening
from tests.router_app import Router, says

KEY, OTHER = "sk-first", "sk-second"
ASK: Any = [{"role": "user", "content": "x"}]


@pytest_asyncio.fixture
async def guarded(tmp_path: Path) -> AsyncIterator[tuple[Router, int]]:
    file = tmp_path / "keys"
    file.write_text(f"{OTHER}\n")
    async with listening(choose=says("Paris"), api_key=KEY, api_key_file=str(file)) as served:
        yield served


@pytest.mark.parametrize("key", [KEY, OTHER, "wrong"])
async def test_the_client_of_openai(guarded: tuple[Router, int], key: str) -> None:
    async with AsyncOpenAI(base_url=f"http://127.0.0.1:{guarded[1]}/v1", api_key=key) as client:
        if key == "wrong":
            with pytest.raises(openai.AuthenticationError) as error:
                await client.chat.completions.create(model="x", messages=ASK, stream=True)
            assert (error.value.status_code, error.value.code) == (401, "invalid_api_key")
            return
        answer = await client.chat.completions.create(model="x", messages=ASK)
        assert answer.choices[0].message.content == "Paris"
        assert [model.id async for model in client.models.list()]


@pytest.mark.parametrize("header", ["api_key", "auth_token"])
@pytest.mark.parametrize("key", [KEY, OTHER, "wrong"])
async def test_the_client_of_anthropic(
    guarded: tuple[Router, int], header: str, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN"):
        monkeypatch.delenv(variable, raising=False)
    sent: dict[str, Any] = {header: key}
    async with AsyncAnthropic(base_url=f"http://127.0.0.1:{guarded[1]}", max_retries=0, **sent) as client:
        if key == "wrong":
            with pytest.raises(anthropic.AuthenticationError, match="authentication_error"):
                await client.messages.create(model="x", max_tokens=9, messages=ASK)
            return
        answer = await client.messages.create(model="x", max_tokens=9, messages=ASK)
        assert [block.text for block in answer.content if block.type == "text"] == ["Paris"]
        assert (await client.messages.count_tokens(model="x", messages=ASK)).input_tokens > 0


@pytest.mark.parametrize("key", [KEY, "wrong", None])
async def test_the_client_of_the_hub(guarded: tuple[Router, int], key: str | None) -> None:
    async with AsyncInferenceClient(model=f"http://127.0.0.1:{guarded[1]}", token=key) as client:
        if key != KEY:
            with pytest.raises(TextGenerationError, match="API key"):
                await client.text_generation("x")
            return
        assert await client.text_generation("x") == "Paris"
        stream = await client.chat_completion(ASK, stream=True)
        assert "".join([chunk.choices[0].delta.content or "" async for chunk in stream]) == "Paris"


async def bench(*options: str) -> tuple[int | None, str]:
    command = [sys.executable, "-m", "tgi_server", "job=bench", "requests=2", "warmup=0", "new_tokens=2", *options]
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    told, _ = await asyncio.wait_for(process.communicate(), 60)
    return process.returncode, told.decode()


async def test_the_load_generator_sends_a_key(guarded: tuple[Router, int], tmp_path: Path) -> None:
    router, port = guarded
    target, output = f"target=http://127.0.0.1:{port}", tmp_path / "bench.json"
    status, told = await bench(target, f"api_key={KEY}", f"output={output}")
    assert status == 0, told
    assert router.metric("tgi_request_success") == 2 and KEY not in told + output.read_text()
    status, told = await bench(target, f"api_key_file={tmp_path / 'keys'}")
    assert status == 0 and router.metric("tgi_request_success") == 4, told
    status, told = await bench(target, "api_key_file=/nowhere", "--cfg=job")
    assert status == 1 and "api_key_file=/nowhere: cannot be read: No such file" in told
    status, told = await bench(target)
    assert status == 1 and "status 401: This server needs an API key" in told

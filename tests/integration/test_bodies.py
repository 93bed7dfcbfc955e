"""Request bodies as they come over a socket: in chunks, too long, cut off, of another length than announced."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator

import httpx
import pytest

from tests.integration.listening import listening, until
from tests.router_app import Router

BODY = b'{"inputs": "x", "parameters": {"max_new_tokens": 2}}'
LIMIT = 1000
TOO_LONG = b'{"inputs": "' + b"x" * LIMIT + b'"}'
PATHS = ["/generate", "/generate_stream", "/", "/invocations", "/tokenize"]
JSON = "content-type: application/json"


async def asked(port: int, path: str, *headers: str, data: bytes) -> tuple[bytes, bytes]:
    """Head and the beginning of the body of the answer to a request, which is written as it is."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = "\r\n".join([f"POST {path} HTTP/1.1", "host: x", *headers])
    writer.write(f"{head}\r\n\r\n".encode() + data)
    try:
        async with asyncio.timeout(5):
            return (await reader.readuntil(b"\r\n\r\n")).lower(), await reader.read(1000)
    finally:
        writer.close()


def in_chunks(data: bytes) -> bytes:
    pieces = [data[start : start + 20] for start in range(0, len(data), 20)]
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


@pytest.mark.parametrize("path", PATHS)
async def test_bodies_in_chunks(path: str) -> None:
    async with listening(payload_limit=LIMIT) as (router, port):
        chunked = "transfer-encoding: chunked"
        head, _ = await asked(port, path, JSON, chunked, data=in_chunks(BODY))
        assert head.startswith(b"http/1.1 200 ")
        counted = router.metric("tgi_request_count")
        for kind, data, status in (
            (JSON, in_chunks(TOO_LONG), b"413"),
            (JSON, in_chunks(b""), b"400"),
            (JSON, in_chunks(b"[]"), b"422"),
            ("content-type: text/plain", in_chunks(TOO_LONG), b"415"),
        ):
            head, text = await asked(port, path, kind, chunked, data=data)
            assert head.startswith(b"http/1.1 %b " % status) and b"\r\ncontent-type: text/plain" in head and text
        assert router.metric("tgi_request_count") == counted


@pytest.mark.parametrize("path", PATHS)
async def test_bodies_and_their_announcement(path: str) -> None:
    async with listening(payload_limit=LIMIT) as (_, port):
        length = f"content-length: {len(BODY)}"
        packed = gzip.compress(BODY)
        for status, *headers, data in (
            (b"200", f"{JSON}; charset=utf-8", length, BODY),
            (b"200", JSON, length, "content-encoding: identity", BODY),
            (b"415", JSON, f"content-length: {len(packed)}", "content-encoding: gzip", packed),
            (b"415", length, BODY),
            (b"413", JSON, f"content-length: {LIMIT + 1}", b""),
            (b"400", JSON, b""),
            (b"400", JSON, "content-length: 0", b""),
            (b"400", JSON, "content-length: -5", BODY),
            (b"400", JSON, "content-length: five", BODY),
            (b"400", JSON, length, "transfer-encoding: chunked", in_chunks(BODY)),
            (b"400", JSON, f"content-length: {len(BODY) - 1}", BODY),
        ):
            assert isinstance(data, bytes)
            head, _ = await asked(port, path, *map(str, headers), data=data)
            assert head.startswith(b"http/1.1 %b " % status), headers


@pytest.mark.parametrize("path", PATHS)
async def test_a_body_that_is_cut_off_is_no_request(path: str, caplog: pytest.LogCaptureFixture) -> None:
    async with listening() as (router, port):
        for end in ("reset", "half-close"):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(f"POST {path} HTTP/1.1\r\nhost: x\r\n{JSON}\r\ncontent-length: 100\r\n\r\n".encode() + BODY)
            await asyncio.sleep(0.05)
            if end == "reset":
                writer.transport.abort()
            else:
                writer.write_eof()
                assert await asyncio.wait_for(reader.read(), 5) == b""
            writer.close()
        head, _ = await asked(port, path, JSON, f"content-length: {len(BODY)}", data=BODY)
        assert head.startswith(b"http/1.1 200 ")
        await settled(router)
        assert router.metric("tgi_request_count") == (path != "/tokenize")
    assert not [record for record in caplog.records if record.levelname in ("ERROR", "CRITICAL")]


async def settled(router: Router) -> None:
    await until(lambda: router.engine.running + router.engine.waiting == 0)


@pytest.mark.parametrize("path", ["/generate", "/v1/completions"])
@pytest.mark.parametrize("length_known", [True, False])
async def test_a_client_that_sends_far_too_much_is_told(path: str, length_known: bool) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield b"x" * 100_000

    async with listening() as (_, port), httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
        content = b"x" * 10_000_000 if length_known else pieces()
        for _ in range(2):
            answer = await client.post(path, content=content, headers={"content-type": "application/json"})
            assert answer.status_code == 413
            content = b"x" * 10_000_000
        assert (await client.get("/health")).status_code == 200

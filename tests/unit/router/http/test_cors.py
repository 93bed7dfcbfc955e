"""Requests that browsers send for pages of other origins."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from tests.router_app import Router, started

PAGE, OTHER = "https://page.example", "https://other.example"
ALLOW = "access-control-allow-origin"


async def call(router: Router, method: str, path: str, **headers: str) -> Any:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    body = {"inputs": "x"} if method == "POST" else None
    return await router.app.test_client().open(path, method=method, headers=named, json=body)


@pytest.mark.parametrize(("origins", "page", "other"), [
    ([], "*", "*"), (["*"], "*", "*"), ([PAGE], PAGE, None), ([OTHER, PAGE], PAGE, OTHER), ([PAGE, "*"], "*", "*"),
])  # fmt: skip
async def test_origins(origins: list[str], page: str, other: str | None) -> None:
    async with started(cors_allow_origin=origins) as router:
        for origin, allowed in ((PAGE, page), (OTHER, other)):
            for method, path in (("GET", "/info"), ("POST", "/generate"), ("POST", "/generate_stream")):
                answer = await call(router, method, path, origin=origin)
                assert (answer.status_code, answer.headers.get(ALLOW)) == (200, allowed)
                assert (answer.headers.get("vary") == "origin") == ("*" not in (page, other))


async def test_a_preflight_is_answered_before_anything_else() -> None:
    async with started(cors_allow_origin=[PAGE]) as router:
        router.engine.begin_drain()
        for path in ("/v1/chat/completions", "/nothing"):
            answer = await call(
                router, "OPTIONS", path, origin=PAGE, access_control_request_method="POST",
                access_control_request_headers="authorization",
            )  # fmt: skip
            assert (answer.status_code, await answer.get_data()) == (200, b"")
            assert answer.headers[ALLOW] == PAGE
            assert answer.headers["access-control-allow-methods"] == "GET,POST"
            assert "authorization" in answer.headers["access-control-allow-headers"]
        answer = await call(router, "OPTIONS", "/info", origin=OTHER, access_control_request_method="GET")
        assert answer.status_code == 200 and ALLOW not in answer.headers
        assert (await call(router, "OPTIONS", "/generate")).headers["allow"], "not a preflight"


@pytest.mark.parametrize("origins", [[], [PAGE]])
@pytest.mark.parametrize("wanted", ["authorization, content-type, x-stainless-os", "x-api-key,anthropic-version", None])
async def test_who_may_call_may_send_any_header(origins: list[str], wanted: str | None) -> None:
    asked = {} if wanted is None else {"access_control_request_headers": wanted}
    async with started(cors_allow_origin=origins) as router:
        preflight = partial(call, router, "OPTIONS", "/v1/messages", access_control_request_method="POST", **asked)
        usual = "content-type,authorization,x-api-key"
        allowed = wanted or usual
        for origin, expected in ((PAGE, allowed), (OTHER, usual if origins else allowed)):
            assert (await preflight(origin=origin)).headers["access-control-allow-headers"] == expected


async def test_errors_carry_the_headers_too() -> None:
    async with started() as router:
        for method, path, status in (("GET", "/nothing", 404), ("GET", "/generate", 405), ("POST", "/info", 405)):
            answer = await call(router, method, path, origin=PAGE)
            assert (answer.status_code, answer.headers[ALLOW]) == (status, "*")
        router.engine.begin_drain()
        for method, path in (("GET", "/health"), ("POST", "/generate")):
            answer = await call(router, method, path, origin=PAGE)
            assert (answer.status_code, answer.headers[ALLOW]) == (503, "*")

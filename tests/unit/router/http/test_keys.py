"""A router that has keys: who may call, and what everybody else is told."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from openapi_spec_validator import OpenAPIV30SpecValidator
from quart import Response

from tests.documented import COMPONENTS, validator
from tests.router_app import Router, says, started
from tgi_server.config.schema import Resolved, ServerConfig
from tgi_server.errors import ConfigError
from tgi_server.router.app import create_app
from tgi_server.router.document import document

NOT_KEPT = [("GET", "/v1/responses/x"), ("DELETE", "/v1/responses/x")]
"""What is never there."""
OPEN = [
    "/",
    "/api-doc/openapi.json",
    "/docs",
    "/docs/",
    "/docs/start.js",
    "/health",
    "/info",
    "/livez",
    "/metrics",
    "/ping",
    "/readyz",
    "/startupz",
    "/ui",
]
"""What a GET may ask without a key; frozen."""
GUARDED = [
    ("POST", "/"), ("POST", "/generate"), ("POST", "/generate_stream"), ("POST", "/invocations"), ("POST", "/tokenize"),
    ("POST", "/v1/chat/completions"), ("POST", "/v1/completions"), ("GET", "/v1/models"), ("GET", "/v1/models/x"),
    ("POST", "/v1/messages"), ("POST", "/v1/messages/count_tokens"), ("POST", "/v1/responses"),
]  # fmt: skip
BODY = {
    "max_tokens": 9,
    "input": "x",
    "inputs": "x",
    "prompt": "x",
    "messages": [{"role": "user", "content": "x"}],
    "parameters": {},
}
KEY, OTHER = "sk-Zm9v/_~+=", "sk-2"


async def ask(router: Router, method: str, path: str, body: Any = None, **headers: str) -> Any:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    usual = {"input": "x"} if path == "/v1/responses" else BODY
    data = (body or usual) if method == "POST" else None
    return await router.app.test_client().open(path, method=method, headers=named, json=data)


@pytest.fixture
def options(tmp_path: Path) -> dict[str, Any]:
    file = tmp_path / "keys"
    file.write_text(f"# the second team's\n{OTHER}\n")
    return {"api_key": KEY, "api_key_file": str(file), "model_id": "x"}


async def test_everything_but_what_tells_of_the_server_needs_a_key(options: dict[str, Any]) -> None:
    async with started(says("!"), **options) as router:
        for path in OPEN:
            for method in ("GET", "HEAD"):
                assert (await ask(router, method, path)).status_code in (200, 303), path
        for method, path in GUARDED:
            assert (await ask(router, method, path)).status_code == 401, path
            assert (await ask(router, method, path, authorization=f"Bearer {KEY}")).status_code == 200, path
        for method, path in (
            *NOT_KEPT,
            ("GET", "/nothing"),
            ("GET", "/docs/x/y"),
            ("POST", "/health"),
            ("GET", "/v1//models"),
        ):
            assert (await ask(router, method, path)).status_code == 401, "nor is it told what there is"
            assert (await ask(router, method, path, x_api_key=KEY)).status_code in (404, 405)


async def test_every_route_is_in_these_lists(options: dict[str, Any]) -> None:
    known = {(method, path.replace("/x", "/<path:name>")) for method, path in GUARDED + NOT_KEPT}
    known |= {("GET", path.replace("start.js", "<name>")) for path in OPEN}
    async with started(**options) as router:
        rules = {(method, rule.rule) for rule in router.app.url_map.iter_rules() for method in rule.methods or ()}
        assert {rule for rule in rules if rule[0] not in ("HEAD", "OPTIONS")} == known


async def test_a_new_route_is_guarded(options: dict[str, Any]) -> None:
    async with started(**options) as router:
        router.app.add_url_rule("/new", view_func=lambda: Response(b"secret"), methods=["GET"])
        assert (await ask(router, "GET", "/new")).status_code == 401
        assert await (await ask(router, "GET", "/new", x_api_key=OTHER)).get_data() == b"secret"


@pytest.mark.parametrize(("headers", "status"), [
    ({"authorization": f"Bearer {KEY}"}, 200), ({"authorization": f"bearer  {KEY} "}, 200),
    ({"authorization": f"BEARER {OTHER}"}, 200), ({"x_api_key": KEY}, 200), ({"x_api_key": f" {OTHER}"}, 200),
    ({"authorization": "Bearer wrong", "x_api_key": KEY}, 200),
    ({"authorization": f"Bearer {KEY}", "x_api_key": "wrong"}, 200),
    ({"authorization": KEY}, 401), ({"authorization": f"Basic {KEY}"}, 401), ({"authorization": "Bearer"}, 401),
    ({"authorization": "Bearer "}, 401), ({"authorization": f"Bearer {KEY}x"}, 401), ({"x_api_key": KEY[:-1]}, 401),
    ({"x_api_key": ""}, 401), ({"x_api_key": KEY.upper()}, 401), ({"x_api_key": f"{KEY},{OTHER}"}, 401),
    ({"authorization": "Bearer \xe9\xff"}, 401), ({"x_api_key": f"{KEY}\xa0"}, 401),
    ({"cookie": f"api_key={KEY}"}, 401), ({}, 401),
])  # fmt: skip
async def test_how_a_key_is_sent(options: dict[str, Any], headers: dict[str, str], status: int) -> None:
    async with started(**options) as router:
        assert (await ask(router, "POST", "/tokenize", **headers)).status_code == status


@pytest.mark.parametrize("chat", [False, True])
async def test_refusals_in_the_words_of_each_api(options: dict[str, Any], chat: bool) -> None:
    async with started(messages_api_enabled=chat, **options) as router:
        for method, path in [*GUARDED, ("GET", "/v1/nothing"), ("GET", "/nothing")]:
            for headers, words in (({}, "needs an API key"), ({"x_api_key": "wrong"}, "not one of this server's")):
                answer = await ask(router, method, path, origin="https://page.example", **headers)
                told = await answer.get_json()
                assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
                assert answer.headers["access-control-allow-origin"] == "*"
                if path.startswith("/v1/messages"):
                    assert (told["type"], told["error"]["type"]) == ("error", "authentication_error")
                    assert words in told["error"]["message"]
                elif path.startswith("/v1") or (chat and path == "/invocations"):
                    error = told["error"]
                    assert (error["type"], error["code"]) == ("invalid_request_error", "invalid_api_key")
                    assert error["param"] is None and words in error["message"]
                else:
                    assert told["error_type"] == "authentication" and words in told["error"]
        assert router.metric("tgi_request_count") == 0 and not router.shards.plans


async def test_a_body_is_not_looked_at_before_the_key(options: dict[str, Any]) -> None:
    async with started(payload_limit=10, **options) as router:
        for path in ("/generate", "/v1/completions"):
            assert (await ask(router, "POST", path)).status_code == 401
            assert (await ask(router, "POST", path, x_api_key=KEY)).status_code == 413
        router.engine.begin_drain()
        assert (await ask(router, "POST", "/generate")).status_code == 401
        assert (await ask(router, "GET", "/health")).status_code == 503


async def test_preflights_need_no_key(options: dict[str, Any]) -> None:
    async with started(**options) as router:
        asked = {"access_control_request_method": "POST", "access_control_request_headers": "authorization"}
        answer = await ask(router, "OPTIONS", "/generate", origin="https://page.example", **asked)
        assert answer.status_code == 200 and "authorization" in answer.headers["access-control-allow-headers"]
        assert (await ask(router, "OPTIONS", "/generate")).status_code == 401, "no preflight"


async def test_without_keys_everybody_may_call() -> None:
    async with started(says("!"), model_id="x") as router:
        for method, path in GUARDED:
            for headers in ({}, {"authorization": "Bearer any"}, {"x_api_key": "any"}):
                answer = await ask(router, method, path, **headers)
                assert answer.status_code == 200 and "www-authenticate" not in answer.headers


async def test_the_log_tells_that_keys_are_needed(options: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "tgi_server.router")
    async with started():
        assert not caplog.messages
    async with started(**options):
        assert caplog.messages == ["Requests need an API key, of which there are 2"]


async def test_the_pages_know_of_it(options: dict[str, Any]) -> None:
    for given, guarded in ((options, "true"), ({}, "false")):
        async with started(**given) as router:
            page = await (await ask(router, "GET", "/ui")).get_data(as_text=True)
            assert f'data-guarded="{guarded}"' in page and KEY not in page and OTHER not in page


@pytest.mark.parametrize("chat", [False, True])
async def test_the_document_tells_which_routes_need_a_key(options: dict[str, Any], chat: bool) -> None:
    async with started(messages_api_enabled=chat, **options) as router:
        made = await (await ask(router, "GET", "/api-doc/openapi.json")).get_json()
        assert made == document(chat, guarded=True)
        assert not [error.message for error in OpenAPIV30SpecValidator(made).iter_errors()]
        assert set(made["components"]["securitySchemes"]) == {"bearer", "x-api-key"}
        for path, operations in made["paths"].items():
            for method, operation in operations.items():
                answer = await ask(router, method.upper(), path.replace("{name}", "x"))
                guarded = answer.status_code == 401
                assert ("security" in operation) == ("401" in operation["responses"]) == guarded, path
                if guarded:
                    schema = operation["responses"]["401"]["content"]["application/json"]["schema"]
                    assert not list(validator(schema, COMPONENTS).iter_errors(await answer.get_json()))
    assert "security" not in str(document(chat))


def test_a_server_does_not_start_open_when_its_keys_are_gone(tmp_path: Path) -> None:
    config = ServerConfig(api_key_file=str(tmp_path / "gone"))
    nothing: Any = None
    with pytest.raises(ConfigError, match="api_key_file="):
        create_app(config, Resolved(), nothing, nothing, None, nothing)

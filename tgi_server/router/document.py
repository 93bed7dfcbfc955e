"""The OpenAPI document of the whole server: every route with what it takes and what it answers."""

from __future__ import annotations

from typing import Any

from tgi_server import __version__
from tgi_server.router.anthropic import document as anthropic
from tgi_server.router.http.openapi.operations import HEADERS, KEYS, Operation, header
from tgi_server.router.http.openapi.schemas import components
from tgi_server.router.native import document as native
from tgi_server.router.openai import document as openai
from tgi_server.router.openai.responses import document as responses
from tgi_server.router.ops import document as ops

_INFO = {
    "title": "Text Generation Inference",
    "description": "A text generation server. Fields of requests that are not listed are ignored.",
    "version": __version__,
    "license": {"name": "Apache 2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"},
}


def document(chat_at_invocations: bool, guarded: bool = False) -> dict[str, Any]:
    """The document; `chat_at_invocations` tells what `/invocations` stands for, `guarded` whether keys are needed.

    Addresses are relative to its own, so that they are right behind a proxy that takes a prefix away.
    """
    apis = [native.api(), openai.api(), responses.api(), anthropic.api(), ops.api()]
    invocations = openai.chat("invocations") if chat_at_invocations else native.compatible("invocations")
    routes = [(apis[chat_at_invocations], "/invocations", "post", invocations)]
    routes += [(api, path, *route) for api in apis for path, methods in api.paths.items() for route in methods.items()]
    paths: dict[str, dict[str, Operation]] = {}
    for api, path, method, operation in routes:
        paths.setdefault(path, {})[method] = api.identified(api.guarded(operation) if guarded else operation)
    return {
        "openapi": "3.0.3",
        "info": _INFO,
        "servers": [{"url": "..", "description": "This server"}],
        "tags": [{"name": api.tag, "description": api.description} for api in apis],
        "paths": paths,
        "components": {
            "schemas": components(
                {name: kind for api in apis for name, kind in api.types.items()},
                {name: constants for api in apis for name, constants in api.constants.items()},
            ),
            "headers": {name: header(name, text) for name, text in HEADERS.items()},
            **({"securitySchemes": KEYS} if guarded else {}),
        },
    }

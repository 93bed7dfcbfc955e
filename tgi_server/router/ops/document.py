"""The OpenAPI document about what operators ask for."""

from __future__ import annotations

from tgi_server.router.http.openapi.operations import (
    Api,
    Operation,
    get_operation,
    json_answer,
    plain,
    server_error,
)
from tgi_server.router.http.openapi.schemas import ref
from tgi_server.router.ops.answers import Info

TAG = "Operators"


def api() -> Api:
    """The part about these routes."""
    paths = {
        "/": {"get": _health("root_health")},
        "/health": {"get": _health("health")},
        "/ping": {"get": _health("ping")},
        "/livez": {"get": _probe("livez", "Whether the process answers, whatever the shards do")},
        "/readyz": {"get": _ready()},
        "/startupz": {"get": _probe("startupz", "Whether the server has been started")},
        "/info": {"get": _info()},
        "/metrics": {"get": _metrics()},
    }
    return Api(TAG, "How the server is, and what it serves.", paths, {"Info": Info}, refusal=None)


def _health(name: str) -> Operation:
    healthy = {"description": "The server answers requests. The body is empty."}
    ill = server_error("A shard does not answer, or the server is about to stop.")
    return get_operation(name, TAG, "Whether the server is well", {"200": healthy, "503": ill})


def _probe(name: str, summary: str) -> Operation:
    return get_operation(name, TAG, summary, {"200": {"description": "It is so. The body is empty."}})


def _ready() -> Operation:
    takes = {"description": "Requests are taken; when there are too many, they wait or get a 429. The body is empty."}
    not_so = server_error("The shards are lost, or the server is about to stop.")
    return get_operation("readyz", TAG, "Whether requests are taken", {"200": takes, "503": not_so})


def _info() -> Operation:
    told = json_answer("Names, limits and versions.", ref("Info"))
    return get_operation("info", TAG, "What is served, and within which limits", {"200": told})


def _metrics() -> Operation:
    return get_operation("metrics", TAG, "What was counted and measured", {"200": plain("For Prometheus.")})

"""The paths of a server that are not all the same to the front. Stdlib only."""

from __future__ import annotations

from typing import Any

METRICS = "/metrics"
LIVE = frozenset({"/livez", "/startupz"})
"""Pages by which a process says that it runs, whatever others do."""
HEALTH = frozenset({"/", "/health", "/ping", "/readyz"})
"""Pages by which a server says that it is well: all replicas are asked, and one that is well will do."""
ANTHROPIC = "/v1/messages"
INVOCATIONS = "/invocations"
GENERATE = frozenset({
    "/", "/generate", "/generate_stream", INVOCATIONS, "/v1/completions", "/v1/chat/completions", "/v1/responses",
    ANTHROPIC,
})  # fmt: skip
"""Where texts are asked for, by POST."""
_OTHER = "other"


def reads(scope: Any) -> bool:
    """Whether a page is asked for."""
    return scope["method"] in ("GET", "HEAD")


def generates(scope: Any) -> bool:
    """Whether a text is asked for."""
    return scope["method"] == "POST" and scope["path"] in GENERATE


def of_operators(scope: Any) -> bool:
    """Whether it is a page of probes and of Prometheus."""
    return reads(scope) and (scope["path"] in HEALTH | LIVE or scope["path"] == METRICS)


def route(scope: Any) -> str:
    """What metrics call it: never what a client wrote."""
    if of_operators(scope):
        return "/health" if scope["path"] == "/" else str(scope["path"])
    return str(scope["path"]) if generates(scope) else _OTHER

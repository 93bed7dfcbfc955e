"""What metrics tell of the server as a whole: what runs, and how HTTP answers."""

from __future__ import annotations

from quart import Response, request

from tgi_server import __version__
from tgi_server.config.schema import Resolved, ServerConfig
from tgi_server.router.http.turned_away import OTHER
from tgi_server.telemetry.metrics import Metrics
from tgi_server.telemetry.process import read_process, read_shards
from tgi_server.types import ShardInfo

_ALIASES = {"ops.root_health": "/health"}
"""By endpoint: GET `/` asks for health, and is told as that, as POST `/` generates."""


def tell_server(metrics: Metrics, config: ServerConfig, resolved: Resolved, shard: ShardInfo) -> None:
    """Which program and model this is, how long the start took, and what the processes use."""
    metrics.gauge(
        "tgi_info", 1,
        version=__version__, model=config.model_id, model_sha=resolved.model_sha or "", dtype=shard.dtype,
        device=shard.device_type, shards=str(resolved.num_shard),
    )  # fmt: skip
    if resolved.load_seconds is not None:
        metrics.gauge("tgi_model_load_seconds", resolved.load_seconds)
    read_process(metrics)
    read_shards(metrics, resolved.shard_pids)


class Responses:
    """Counts answers as they are begun. Their label is the route's pattern, never what a client wrote."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    async def count(self, response: Response) -> Response:
        """For `Quart.after_request`."""
        self._metrics.counter("tgi_http_responses", route=_route(), status=str(response.status_code))
        return response


def _route() -> str:
    """The label of the request's route."""
    rule = request.url_rule
    return OTHER if rule is None else _ALIASES.get(rule.endpoint, rule.rule)

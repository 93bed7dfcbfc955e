"""For operators: `/health` (also called `/ping` and, for GET, `/`), `/info` and `/metrics`; probes of Kubernetes."""

from __future__ import annotations

from quart import Blueprint, Response

from tgi_server import __version__
from tgi_server.config.schema import Resolved, ServerConfig
from tgi_server.engine.engine import Engine
from tgi_server.errors import TgiError, UnhealthyError
from tgi_server.router.http.body import answer
from tgi_server.router.http.errors import error_response
from tgi_server.router.ops.answers import Info
from tgi_server.telemetry.metrics import CONTENT_TYPE, Metrics


class OpsRoutes:
    """The handlers. `resolved` is what the launcher found out about model and program."""

    def __init__(self, config: ServerConfig, resolved: Resolved, engine: Engine, metrics: Metrics) -> None:
        self._config = config
        self._resolved = resolved
        self._engine = engine
        self._metrics = metrics

    def blueprint(self) -> Blueprint:
        """The routes."""
        blueprint = Blueprint("ops", __name__)
        blueprint.add_url_rule("/health", view_func=self.health, methods=["GET"])
        blueprint.add_url_rule("/ping", endpoint="ping", view_func=self.health, methods=["GET"])
        blueprint.add_url_rule("/", endpoint="root_health", view_func=self.health, methods=["GET"])
        blueprint.add_url_rule("/livez", view_func=self.live, methods=["GET"])
        blueprint.add_url_rule("/readyz", view_func=self.ready, methods=["GET"])
        blueprint.add_url_rule("/startupz", endpoint="startupz", view_func=self.live, methods=["GET"])
        blueprint.add_url_rule("/info", view_func=self.info, methods=["GET"])
        blueprint.add_url_rule("/metrics", view_func=self.metrics, methods=["GET"])
        blueprint.register_error_handler(TgiError, error_response)
        return blueprint

    async def health(self) -> Response:
        """200 while the shards answer, 503 otherwise and while draining."""
        await self._engine.health()
        return Response(b"", content_type="text/plain")

    async def live(self) -> Response:
        """200: the event loop goes round, and a router that answers at all has been started."""
        return Response(b"", content_type="text/plain")

    async def ready(self) -> Response:
        """200 while requests are taken, however many wait; 503 while draining and once the shards are lost."""
        if reason := self._engine.unready:
            raise UnhealthyError(reason)
        return Response(b"", content_type="text/plain")

    async def info(self) -> Response:
        """What is served, and within which limits."""
        config, resolved, shard = self._config, self._resolved, self._engine.info
        told: Info = {
            "model_id": config.model_id,
            "model_sha": resolved.model_sha,
            "model_dtype": shard.dtype,
            "model_device_type": shard.device_type,
            "model_pipeline_tag": resolved.pipeline_tag,
            "max_concurrent_requests": config.max_concurrent_requests,
            "max_best_of": config.max_best_of,
            "max_stop_sequences": config.max_stop_sequences,
            "max_input_length": config.max_input_length,
            "max_total_tokens": config.max_total_tokens,
            "waiting_served_ratio": config.waiting_served_ratio,
            "max_batch_total_tokens": shard.cache_tokens(config.max_total_tokens),
            "max_waiting_tokens": config.max_waiting_tokens,
            "max_batch_size": config.max_batch_size,
            "validation_workers": config.validation_workers,
            "version": __version__,
            "sha": resolved.sha,
            "docker_label": resolved.docker_label,
        }
        return answer(told)

    async def metrics(self) -> Response:
        """Everything counted so far, as Prometheus text."""
        return Response(self._metrics.render(), content_type=CONTENT_TYPE)

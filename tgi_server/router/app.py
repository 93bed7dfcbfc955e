"""The HTTP application, put together from the parts that the process has started."""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from quart import Quart, Response, request
from tokenizers import Tokenizer
from werkzeug.exceptions import HTTPException

from tgi_server import api_keys
from tgi_server.config.schema import Resolved, ServerConfig
from tgi_server.engine.engine import Engine
from tgi_server.router import invocations
from tgi_server.router.anthropic import routes as anthropic
from tgi_server.router.anthropic.routes import AnthropicRoutes
from tgi_server.router.chat.template import ChatTemplate
from tgi_server.router.document import document
from tgi_server.router.http.body import answer
from tgi_server.router.http.calls import Calls
from tgi_server.router.http.cors import Cors
from tgi_server.router.http.keys import Keys
from tgi_server.router.http.limits import Limits
from tgi_server.router.http.recording import Recorder
from tgi_server.router.http.refusals import Refusable, Refusals
from tgi_server.router.http.stream import Asgi, Closing
from tgi_server.router.http.told import Told
from tgi_server.router.http.tunnel import LocalPaths
from tgi_server.router.native.routes import NativeRoutes
from tgi_server.router.openai.answers import ErrorKind
from tgi_server.router.openai.errors import error_object
from tgi_server.router.openai.rendering import Served
from tgi_server.router.openai.responses.routes import ResponsesRoutes
from tgi_server.router.openai.routes import OpenAIRoutes
from tgi_server.router.ops.routes import OpsRoutes
from tgi_server.router.ops.told import Responses, tell_server
from tgi_server.router.pages.documentation import DocsRoutes
from tgi_server.router.pages.ui import PageRoutes
from tgi_server.telemetry import tracing
from tgi_server.telemetry.metrics import Metrics

OPEN_TO_ALL = ("ops", "pages", "docs")
"""Blueprints whose routes need no API key."""

logger = logging.getLogger(__name__)


def create_app(
    config: ServerConfig,
    resolved: Resolved,
    engine: Engine,
    tokenizer: Tokenizer,
    template: ChatTemplate | None,
    metrics: Metrics,
) -> Quart:
    """The application that serves a started `engine`.

    Args:
        config: limits and names.
        resolved: what the launcher found out.
        template: the model's chat template, None where it has none.

    Raises:
        ConfigError: the file of API keys cannot be read, or that of `record_traffic` not written.
    """
    keys = api_keys.read(config)
    app = _empty(config.payload_limit)
    pools = (
        ThreadPoolExecutor(config.validation_workers, thread_name_prefix="validation"),
        ThreadPoolExecutor(2, thread_name_prefix="grammars"),
    )
    tracer = tracing.tracer(config.otlp_endpoint, config.otlp_service_name)
    recorder = None if config.record_traffic is None else Recorder(Path(config.record_traffic).expanduser())
    limits = Limits.of(config, config, engine.info)
    calls = Calls(engine, tokenizer, limits, *pools, metrics, tracer, recorder, config.model_id)
    callers = Keys(keys, OPEN_TO_ALL)
    Told(OPEN_TO_ALL).install(app)
    app.before_request(callers.check)
    app.after_request(Responses(metrics).count)
    tell_server(metrics, config, resolved, engine.info)
    if keys:
        logger.info("Requests need an API key, of which there are %d", len(keys))
    for own in (OpsRoutes(config, resolved, engine, metrics), PageRoutes(config, bool(keys))):
        app.register_blueprint(own.blueprint())
    app.register_blueprint(DocsRoutes(document(config.messages_api_enabled, bool(keys))).blueprint())
    refusable = _register_apis(app, config, resolved, calls, template)
    inner: Asgi = Refusals(Closing(app.asgi_app), refusable, calls, callers, metrics, config.payload_limit)
    if config.ngrok:
        inner = LocalPaths(inner)
    app.asgi_app = Cors(inner, config.cors_allow_origin)  # type: ignore[method-assign]

    @app.after_serving
    async def stop() -> None:
        for threads in pools:
            threads.shutdown(wait=False, cancel_futures=True)
        await asyncio.to_thread(tracer.close)
        if recorder is not None:
            await asyncio.to_thread(recorder.close)

    return app


def _empty(payload_limit: int) -> Quart:
    app = Quart(__name__, static_folder=None)
    app.url_map.merge_slashes = False  # another path is another path, not a redirection
    app.config["MAX_CONTENT_LENGTH"] = payload_limit
    app.config["RESPONSE_TIMEOUT"] = None  # a stream lasts as long as its tokens take
    app.config["BODY_TIMEOUT"] = None  # `HttpProtocol` has one, for the head as well
    return app


def _register_apis(
    app: Quart, config: ServerConfig, resolved: Resolved, calls: Calls, template: ChatTemplate | None
) -> dict[str, Refusable[Any]]:
    """Add all routes that generate, and what errors look like there; returns those that `Refusals` may answer."""
    compute_type = config.compute_type or resolved.compute_type
    native = NativeRoutes(calls, compute_type, resolved.pipeline_tag)
    openai = OpenAIRoutes(calls, template, Served.of(config.model_id, resolved.docker_label), compute_type)
    responses = ResponsesRoutes(calls, template, config.model_id, compute_type)
    messages = AnthropicRoutes(calls, template, config.model_id, compute_type)
    refusable: dict[str, Refusable[Any]] = invocations.refusable(native, openai, config.messages_api_enabled)
    for routes in (native, openai, responses, messages):
        app.register_blueprint(routes.blueprint())
        refusable |= routes.refusable()
    app.register_blueprint(invocations.blueprint(native, openai, config.messages_api_enabled))
    openai_paths = ("/v1/", invocations.PATH) if config.messages_api_enabled else ("/v1/",)
    app.register_error_handler(HTTPException, partial(_http_error, openai_paths))
    return refusable


_NATIVE_TYPES = {401: "authentication", 500: "internal"}


async def _http_error(openai_paths: tuple[str, ...], error: HTTPException) -> Response:
    """Errors of HTTP itself: no key, unknown path, wrong method, body too large; and what nobody expected (500)."""
    status = error.code or 500
    headers = {name: value for name, value in error.get_headers() if name.lower() != "content-type"}
    if request.path == anthropic.PATH or request.path.startswith(f"{anthropic.PATH}/"):
        return anthropic.http_error(status, error.description or "", headers)
    if request.path.startswith(openai_paths):
        kind: ErrorKind = "invalid_request_error" if status < 500 else "server_error"
        code = "invalid_api_key" if status == 401 else None
        return answer(error_object(error.description or "", kind, None, code), status, headers)
    if status in _NATIVE_TYPES:
        return answer({"error": error.description, "error_type": _NATIVE_TYPES[status]}, status, headers)
    text = "" if status in (404, 405) else error.description or ""
    return Response(text, status=status, content_type="text/plain; charset=utf-8", headers=headers)

"""`/invocations`, the one path that hosts such as SageMaker send requests to."""

from __future__ import annotations

from typing import Any

from quart import Blueprint

from tgi_server.errors import TgiError
from tgi_server.router.http import errors as native
from tgi_server.router.http.refusals import Refusable
from tgi_server.router.native.routes import NativeRoutes
from tgi_server.router.openai import routes as openai

PATH = "/invocations"


def blueprint(native_routes: NativeRoutes, openai_routes: openai.OpenAIRoutes, chat: bool) -> Blueprint:
    """The route with the error format of what it stands for: `/v1/chat/completions` if `chat`, else `/`."""
    routes = Blueprint("invocations", __name__)
    view = openai_routes.chat if chat else native_routes.compatible
    routes.add_url_rule(PATH, view_func=view, methods=["POST"])
    routes.register_error_handler(TgiError, openai.error_response if chat else native.error_response)
    return routes


def refusable(native_routes: NativeRoutes, openai_routes: openai.OpenAIRoutes, chat: bool) -> dict[str, Refusable[Any]]:
    """The same as it is refused."""
    return {PATH: openai_routes.refusable()["/v1/chat/completions"] if chat else native_routes.refusable()["/"]}

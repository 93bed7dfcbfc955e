"""`/v1/responses`. Nothing is kept, so that there is nothing to fetch or delete later."""

from __future__ import annotations

from functools import partial

from quart import Blueprint, Response

from tgi_server.errors import TgiError
from tgi_server.router.chat.template import ChatTemplate
from tgi_server.router.http.answering import respond
from tgi_server.router.http.body import answer, read
from tgi_server.router.http.calls import Calls
from tgi_server.router.http.refusals import Refusable
from tgi_server.router.openai.errors import error_object
from tgi_server.router.openai.responses import rules
from tgi_server.router.openai.responses.rendering import ResponseAnswer
from tgi_server.router.openai.responses.requests import ResponsesBody
from tgi_server.router.openai.routes import error_response, refused

PATH = "/v1/responses"
NOT_KEPT = "Responses are not kept: there is none to fetch or to delete"


class ResponsesRoutes:
    """The handlers.

    Args:
        template: the model's chat template, None where it has none.
        model: the name of the model that is served; requests may have any.
        compute_type: told in a header of every answer.
    """

    def __init__(self, calls: Calls, template: ChatTemplate | None, model: str, compute_type: str) -> None:
        self._calls = calls
        self._template = template
        self._model = model
        self._compute_type = compute_type

    def blueprint(self) -> Blueprint:
        """The routes with their error format."""
        blueprint = Blueprint("responses", __name__, url_prefix=PATH)
        blueprint.add_url_rule("", view_func=self.response, methods=["POST"])
        blueprint.add_url_rule("/<path:name>", view_func=self.kept, methods=["GET", "DELETE"])
        blueprint.register_error_handler(TgiError, error_response)
        return blueprint

    def refusable(self) -> dict[str, Refusable[ResponsesBody]]:
        """The route that needs a place to generate."""
        return {PATH: Refusable(ResponsesBody, _texts, refused)}

    async def response(self) -> Response:
        """The assistant's answer to a conversation."""
        body = await read(ResponsesBody)
        prepare = partial(rules.response, body, self._template)
        opening = self._calls.begin(prepare, body, partial(_texts, body), self._calls.origin(bool(body.stream)))
        making = ResponseAnswer(body, self._model)
        return await respond(opening, making, bool(body.stream), self._compute_type)

    async def kept(self, name: str) -> Response:
        """An earlier response, of which there is none."""
        return answer(error_object(NOT_KEPT, "invalid_request_error", None, "response_not_found"), 404)


def _texts(body: ResponsesBody) -> int:
    return 1

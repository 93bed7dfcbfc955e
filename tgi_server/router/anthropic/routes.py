"""The Anthropic endpoints: `/v1/messages` and `/v1/messages/count_tokens`."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from functools import partial

from quart import Blueprint, Response

from tgi_server.errors import TgiError
from tgi_server.router.anthropic import rules
from tgi_server.router.anthropic.answers import TokenCount
from tgi_server.router.anthropic.errors import envelope, error_object, error_status
from tgi_server.router.anthropic.rendering import MessageAnswer
from tgi_server.router.anthropic.requests import ConversationBody, MessagesBody
from tgi_server.router.chat.template import ChatTemplate
from tgi_server.router.http.answering import respond
from tgi_server.router.http.body import answer, read
from tgi_server.router.http.calls import Calls
from tgi_server.router.http.identity import request_id
from tgi_server.router.http.refusals import Refusable

PATH = "/v1/messages"
REQUEST_ID = "request-id"


class AnthropicRoutes:
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
        blueprint = Blueprint("anthropic", __name__, url_prefix=PATH)
        blueprint.add_url_rule("", view_func=self.message, methods=["POST"])
        blueprint.add_url_rule("/count_tokens", view_func=self.count_tokens, methods=["POST"])
        blueprint.register_error_handler(TgiError, error_response)
        blueprint.after_request(_with_request_id)
        return blueprint

    def refusable(self) -> dict[str, Refusable[MessagesBody]]:
        """The route that needs a place to generate."""
        return {PATH: Refusable(MessagesBody, _texts, _refused)}

    async def message(self) -> Response:
        """The assistant's answer to a conversation."""
        body = await read(MessagesBody)
        prepare = partial(rules.message, body, self._template)
        opening = self._calls.begin(prepare, body, partial(_texts, body), self._calls.origin(bool(body.stream)))
        making = MessageAnswer(body, self._model, request_id())
        return await respond(opening, making, bool(body.stream), self._compute_type)

    async def count_tokens(self) -> Response:
        """How long a conversation is. Nothing is generated, and nothing has to wait for others that are."""
        body = await read(ConversationBody)
        loop = asyncio.get_running_loop()
        count = partial(rules.length, body, self._template, self._calls.tokenizer)
        return answer(TokenCount(await loop.run_in_executor(self._calls.pool, count)))


def _texts(body: MessagesBody) -> int:
    return 1


async def error_response(error: TgiError) -> Response:
    """The error envelope of the Anthropic API."""
    return answer(envelope(error, request_id()), error_status(error))


async def _refused(body: MessagesBody, error: TgiError, id: str) -> Response:
    response = answer(envelope(error, id), error_status(error))
    response.headers[REQUEST_ID] = id
    return response


def http_error(status: int, message: str, headers: Mapping[str, str]) -> Response:
    """The same for an error of HTTP itself."""
    told = error_object(status, message, request_id())
    return answer(told, status, {**headers, REQUEST_ID: request_id()})


async def _with_request_id(response: Response) -> Response:
    response.headers[REQUEST_ID] = request_id()
    return response

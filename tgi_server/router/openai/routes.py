"""The OpenAI endpoints: `/v1/chat/completions`, `/v1/completions` and `/v1/models`."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

from quart import Blueprint, Response

from tgi_server.errors import TgiError
from tgi_server.router.chat.template import ChatTemplate
from tgi_server.router.http.answering import respond
from tgi_server.router.http.body import answer, read
from tgi_server.router.http.calls import Calls, Prepare
from tgi_server.router.http.refusals import Refusable
from tgi_server.router.http.wire import Body
from tgi_server.router.openai import rules
from tgi_server.router.openai.answers import Model, ModelList
from tgi_server.router.openai.errors import envelope, error_object, error_status
from tgi_server.router.openai.rendering import ChatAnswer, CompletionAnswer, OpenAIAnswer, Served
from tgi_server.router.openai.requests import ChatBody, CompletionBody, OpenAIBody


class OpenAIRoutes:
    """The handlers.

    Args:
        template: the model's chat template, None where it has none.
        served: what answers say of the server; requests may name any model.
        compute_type: told in a header of every answer.
    """

    def __init__(self, calls: Calls, template: ChatTemplate | None, served: Served, compute_type: str) -> None:
        self._calls = calls
        self._template = template
        self._served = served
        self._compute_type = compute_type
        self._created = int(time.time())

    def blueprint(self) -> Blueprint:
        """The routes with their error format."""
        blueprint = Blueprint("openai", __name__, url_prefix="/v1")
        blueprint.add_url_rule("/chat/completions", view_func=self.chat, methods=["POST"])
        blueprint.add_url_rule("/completions", view_func=self.completion, methods=["POST"])
        blueprint.add_url_rule("/models", view_func=self.models, methods=["GET"])
        blueprint.add_url_rule("/models/<path:name>", view_func=self.model, methods=["GET"])
        blueprint.register_error_handler(TgiError, error_response)
        return blueprint

    def refusable(self) -> dict[str, Refusable[Any]]:
        """The routes that need a place to generate."""
        kinds: dict[str, type[OpenAIBody]] = {"/v1/chat/completions": ChatBody, "/v1/completions": CompletionBody}
        return {path: Refusable(kind, self._texts, refused) for path, kind in kinds.items()}

    async def chat(self) -> Response:
        """The assistant's answer to a conversation."""
        body = await read(ChatBody)
        prepare = partial(rules.chat, body, self._template)
        return await self._answer(body, prepare, ChatAnswer(body, self._served))

    async def completion(self) -> Response:
        """The continuation of a text."""
        body = await read(CompletionBody)
        return await self._answer(body, partial(rules.completion, body), CompletionAnswer(body, self._served))

    async def models(self) -> Response:
        """The one model that is served."""
        models: ModelList = {"object": "list", "data": [self._described()]}
        return answer(models)

    async def model(self, name: str) -> Response:
        """The model of that name, if it is served."""
        if name != self._served.model:
            message = f"The model {name!r} is not served"
            return answer(error_object(message, "invalid_request_error", "model", "model_not_found"), 404)
        return answer(self._described())

    def _described(self) -> Model:
        return {"id": self._served.model, "object": "model", "created": self._created, "owned_by": "tgi_server"}

    async def _answer(self, body: OpenAIBody, prepare: Prepare, making: OpenAIAnswer[Any, Any]) -> Response:
        check = partial(self._texts, body)
        opening = self._calls.begin(prepare, body, check, self._calls.origin(bool(body.stream)))
        return await respond(opening, making, bool(body.stream), self._compute_type)

    def _texts(self, body: OpenAIBody) -> int:
        return rules.check_texts(body, self._calls.limits)


async def refused(body: Body, error: TgiError, id: str) -> Response:
    """The answer to a request that gets no place, as `Refusable` has it."""
    return await error_response(error)


async def error_response(error: TgiError) -> Response:
    """The error envelope of the OpenAI API."""
    return answer(envelope(error), error_status(error))

"""TGI's own endpoints: `/generate`, `/generate_stream`, `/` and `/tokenize`."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from functools import partial

from quart import Blueprint, Response
from tokenizers import Tokenizer

from tgi_server.errors import TgiError
from tgi_server.router.http import headers
from tgi_server.router.http.body import answer, read
from tgi_server.router.http.calls import Calls
from tgi_server.router.http.errors import error_body, error_response
from tgi_server.router.http.refusals import Refusable
from tgi_server.router.http.stream import complete, event_stream, token_chunks
from tgi_server.router.native import rendering, rules
from tgi_server.router.native.answers import Generated
from tgi_server.router.native.requests import GenerateBody, Parameters

logger = logging.getLogger(__name__)


class NativeRoutes:
    """The handlers.

    Args:
        compute_type: told in a header of every answer.
        purpose: what the hub says the model is for, which decides whether `/` puts the prompt before the generated text
            for clients that do not say; None where that is not known.
    """

    def __init__(self, calls: Calls, compute_type: str, purpose: str | None) -> None:
        self._calls = calls
        self._compute_type = compute_type
        self._full_text = purpose == "text-generation"
        self._to_tell = purpose is None

    def blueprint(self) -> Blueprint:
        """The routes with their error format."""
        blueprint = Blueprint("native", __name__)
        blueprint.add_url_rule("/generate", view_func=self.generate, methods=["POST"])
        blueprint.add_url_rule("/generate_stream", view_func=self.generate_stream, methods=["POST"])
        blueprint.add_url_rule("/", view_func=self.compatible, methods=["POST"])
        blueprint.add_url_rule("/tokenize", view_func=self.tokenize, methods=["POST"])
        blueprint.register_error_handler(TgiError, error_response)
        return blueprint

    def refusable(self) -> dict[str, Refusable[GenerateBody]]:
        """The routes that need a place to generate."""
        return {
            "/generate": self._refusable(lambda body: False),
            "/generate_stream": self._refusable(lambda body: True),
            "/": self._refusable(lambda body: body.stream),
        }

    def _refusable(self, streamed: Callable[[GenerateBody], bool]) -> Refusable[GenerateBody]:
        async def refused(body: GenerateBody, error: TgiError, id: str) -> Response:
            return self._events(body, _raised(error)) if streamed(body) else await error_response(error)

        def texts(body: GenerateBody) -> int:
            return self._texts(rules.parameters_of(body), streamed(body))

        return Refusable(GenerateBody, texts, refused, streamed, rules.parameters_of)

    async def generate(self) -> Response:
        """The whole text in one answer."""
        generated, told = await self._whole(await read(GenerateBody), full_text=False)
        return answer(generated, headers=told)

    async def generate_stream(self) -> Response:
        """One event a token."""
        return self._stream(await read(GenerateBody), full_text=False)

    async def compatible(self) -> Response:
        """`/`: the body's `stream` decides; a whole answer is a list of one."""
        body = await read(GenerateBody)
        if self._to_tell and rules.parameters_of(body).return_full_text is None:
            self._tell()
        if body.stream:
            return self._stream(body, self._full_text)
        generated, told = await self._whole(body, self._full_text)
        return answer([generated], headers=told)

    async def tokenize(self) -> Response:
        """Ids and character offsets of the tokens of a text."""
        body = await read(GenerateBody)
        truncate = rules.parameters_of(body).truncate
        loop = asyncio.get_running_loop()
        text = await loop.run_in_executor(self._calls.pool, _spans, self._calls.tokenizer, body.inputs, truncate)
        return Response(text, content_type="application/json")

    def _tell(self) -> None:
        """Once, to who may expect otherwise."""
        self._to_tell = False
        logger.warning(
            "The hub's pipeline tag of the model is not known: answers of POST / begin with the prompt only where "
            "return_full_text asks for it"
        )

    async def _whole(self, body: GenerateBody, full_text: bool) -> tuple[Generated, dict[str, str]]:
        """The answer and its headers; `full_text` is the default of `return_full_text`."""
        parameters = rules.parameters_of(body)
        check = partial(self._texts, parameters, False)
        opening = self._calls.begin(partial(rules.prepare, body), parameters, check, self._calls.origin(streamed=False))
        async with opening as call:
            generated = rendering.whole(await call.best(), parameters, _before(body, parameters, full_text))
            return generated, headers.headers(call, self._compute_type)

    def _stream(self, body: GenerateBody, full_text: bool) -> Response:
        """Errors are events too, also those of validation: the status is always 200."""
        parameters = rules.parameters_of(body)
        check = partial(self._texts, parameters, True)
        opening = self._calls.begin(partial(rules.prepare, body), parameters, check, self._calls.origin(streamed=True))
        events = rendering.StreamAnswer(parameters, _before(body, parameters, full_text))
        return self._events(body, token_chunks(opening, events.events))

    def _texts(self, parameters: Parameters, streaming: bool) -> int:
        return rules.check_endpoint(parameters, streaming, self._calls.limits.max_best_of)

    def _events(self, body: GenerateBody, chunks: AsyncGenerator[bytes, None]) -> Response:
        told = headers.stream_headers(self._compute_type, len(body.inputs))
        return event_stream(complete(chunks, error_body), told)


async def _raised(error: TgiError) -> AsyncGenerator[bytes, None]:
    """A stream that ends before it begins."""
    raise error
    yield


def _spans(tokenizer: Tokenizer, text: str, truncate: int | None) -> bytes:
    return rendering.joined(rules.token_spans(tokenizer, text, truncate))


def _before(body: GenerateBody, parameters: Parameters, full_text: bool) -> str:
    """What the answer's text begins with: the whole prompt, or nothing."""
    asked = parameters.return_full_text
    return body.inputs if asked or (asked is None and full_text) else ""

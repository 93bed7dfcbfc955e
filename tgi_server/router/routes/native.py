"""TGI's own endpoints: `/generate`, `/generate_stream`, `/` and `/tokenize`."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

from quart import Blueprint, Response
from tokenizers import Tokenizer

from tgi_server.errors import TgiError
from tgi_server.router import native_answers, validate
from tgi_server.router.calls import Calls
from tgi_server.router.routes.body import answer, read
from tgi_server.router.stream import complete, event_stream, token_chunks
from tgi_server.router.wire import BodyError, GenerateBody, Parameters


class NativeRoutes:
    """The handlers. `compute_type` is told in a header of every answer."""

    def __init__(self, calls: Calls, compute_type: str) -> None:
        self._calls = calls
        self._compute_type = compute_type

    def blueprint(self) -> Blueprint:
        """The routes with their error format."""
        blueprint = Blueprint("native", __name__)
        blueprint.add_url_rule("/generate", view_func=self.generate, methods=["POST"])
        blueprint.add_url_rule("/generate_stream", view_func=self.generate_stream, methods=["POST"])
        blueprint.add_url_rule("/", view_func=self.compatible, methods=["POST"])
        blueprint.add_url_rule("/tokenize", view_func=self.tokenize, methods=["POST"])
        blueprint.register_error_handler(TgiError, error_response)
        return blueprint

    async def generate(self) -> Response:
        """The whole text in one answer."""
        return await self._whole(await read(GenerateBody), as_list=False)

    async def generate_stream(self) -> Response:
        """One event a token."""
        return self._stream(await read(GenerateBody))

    async def compatible(self) -> Response:
        """`/`: the body's `stream` decides; a whole answer is a list of one."""
        body = await read(GenerateBody)
        return self._stream(body) if body.stream else await self._whole(body, as_list=True)

    async def tokenize(self) -> Response:
        """Ids and character offsets of the tokens of a text."""
        body = await read(GenerateBody)
        truncate = validate.parameters_of(body).truncate
        loop = asyncio.get_running_loop()
        text = await loop.run_in_executor(self._calls.pool, _spans, self._calls.tokenizer, body.inputs, truncate)
        return Response(text, content_type="application/json")

    async def _whole(self, body: GenerateBody, as_list: bool) -> Response:
        parameters = validate.parameters_of(body)
        check = partial(validate.check_endpoint, parameters, False, self._calls.limits.max_best_of)
        candidates = validate.candidates(parameters)
        opening = self._calls.begin(
            partial(validate.native, body), parameters, check, candidates, span=self._calls.span()
        )
        async with opening as call:
            generated = native_answers.whole(await call.answer(), parameters, _full_text_of(body, parameters))
            headers = native_answers.headers(call, self._compute_type)
        result: Any = [generated] if as_list else generated
        return answer(result, headers=headers)

    def _stream(self, body: GenerateBody) -> Response:
        """Errors are events too, also those of validation: the status is always 200."""
        parameters = validate.parameters_of(body)
        check = partial(validate.check_endpoint, parameters, True, self._calls.limits.max_best_of)
        opening = self._calls.begin(partial(validate.native, body), parameters, check, span=self._calls.span())
        events = native_answers.StreamAnswer(parameters, _full_text_of(body, parameters))
        chunks = token_chunks(opening, events.event)
        headers = native_answers.stream_headers(self._compute_type, len(body.inputs))
        return event_stream(complete(chunks, native_answers.error_body), headers)


def _spans(tokenizer: Tokenizer, text: str, truncate: int | None) -> bytes:
    return native_answers.joined(validate.token_spans(tokenizer, text, truncate))


def _full_text_of(body: GenerateBody, parameters: Parameters) -> str | None:
    return body.inputs if parameters.return_full_text else None


async def error_response(error: TgiError) -> Response:
    """Plain text for a body that cannot be read, `{error, error_type}` for everything else."""
    if isinstance(error, BodyError):
        return Response(str(error), status=error.status, content_type="text/plain; charset=utf-8")
    return answer(native_answers.error_body(error), error.status)

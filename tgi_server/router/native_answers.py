"""What TGI's own endpoints answer: bodies, stream events, headers and errors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tgi_server.errors import TgiError
from tgi_server.router.calls import Answer, Call
from tgi_server.router.wire import Parameters, dumps, single
from tgi_server.types import Finish, Token, TokenEvent

Json = dict[str, Any]


def error_body(error: TgiError) -> Json:
    """`{error, error_type}`."""
    return {"error": error.public_message(), "error_type": error.error_type}


def whole(answer: Answer, parameters: Parameters, full_text_of: str | None) -> Json:
    """The answer to a request that does not stream; `full_text_of` is the prompt to put before the text, if any."""
    body: Json = {"generated_text": _text(answer.finish, full_text_of)}
    if parameters.details or parameters.decoder_input_details:
        body["details"] = _finish(answer.finish) | _tokens(answer, parameters)
        if answer.others:
            body["details"]["best_of_sequences"] = [
                {"generated_text": _text(other.finish, full_text_of)}
                | _finish(other.finish)
                | _tokens(other, parameters)
                for other in answer.others
            ]
    return body


def _tokens(answer: Answer, parameters: Parameters) -> Json:
    tokens: Json = {
        "prefill": [_prompt_token(token) for token in answer.prompt],
        "tokens": [_token(event.token) for event in answer.events],
    }
    if parameters.top_n_tokens:
        tokens["top_tokens"] = [[_token(top) for top in event.top_tokens] for event in answer.events]
    return tokens


class StreamAnswer:
    """The events of one stream.

    Args:
        parameters: of the request.
        full_text_of: the prompt to put before the generated text of the last event, if any.
    """

    def __init__(self, parameters: Parameters, full_text_of: str | None) -> None:
        self._details = parameters.details
        self._full_text_of = full_text_of
        self._index = 0

    def event(self, event: TokenEvent) -> Json:
        """One token; `index` counts from 1."""
        self._index += 1
        data: Json = {"index": self._index, "token": _token(event.token)}
        if event.top_tokens:
            data["top_tokens"] = [_token(top) for top in event.top_tokens]
        finish = event.finish
        data["generated_text"] = None if finish is None else _text(finish, self._full_text_of)
        data["details"] = None if finish is None or not self._details else _finish(finish)
        return data


def joined(items: Sequence[Any], piece: int = 4096) -> bytes:
    """A JSON list, written piece by piece: one call for a million items would hold up all other threads."""
    pieces = [dumps(items[start : start + piece])[1:-1] for start in range(0, len(items), piece)]
    return b"[%b]" % b",".join(pieces)


def stream_headers(compute_type: str, characters: int) -> dict[str, str]:
    """Headers that are known before anything is computed. `characters` is the length of the prompt text."""
    return {"x-compute-type": compute_type, "x-compute-characters": str(characters)}


def headers(call: Call, compute_type: str) -> dict[str, str]:
    """Headers of a finished answer; times in whole milliseconds."""
    generated = call.finish.generated_tokens if call.finish else 0
    total, inference = call.total_time, call.generation.inference_time
    return stream_headers(compute_type, len(call.prepared.text)) | {
        "x-compute-time": _ms(total),
        "x-total-time": _ms(total),
        "x-validation-time": _ms(call.validation_time),
        "x-queue-time": _ms(call.generation.queue_time),
        "x-inference-time": _ms(inference),
        "x-time-per-token": _ms(inference / max(generated, 1)),
        "x-prompt-tokens": str(call.prompt_tokens),
        "x-generated-tokens": str(generated),
    }


def _ms(seconds: float) -> str:
    return str(int(seconds * 1000))


def _text(finish: Finish, full_text_of: str | None) -> str:
    return finish.text if full_text_of is None else full_text_of + finish.text


def _finish(finish: Finish) -> Json:
    return {
        "finish_reason": finish.reason.value,
        "generated_tokens": finish.generated_tokens,
        "seed": finish.seed,
    }


def _prompt_token(token: Token) -> Json:
    return {"id": token.id, "text": token.text, "logprob": single(token.logprob)}


def _token(token: Token) -> Json:
    return {"id": token.id, "text": token.text, "logprob": single(token.logprob), "special": token.special}

"""How answers of the native API are made."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tgi_server.router.http.calls import Answer
from tgi_server.router.http.wire import dumps, single
from tgi_server.router.native import answers
from tgi_server.router.native.requests import Parameters
from tgi_server.types import Finish, Token, TokenEvent


def whole(answer: Answer, parameters: Parameters, before: str) -> answers.Generated:
    """The answer to a request that does not stream; its texts begin with `before`."""
    body: answers.Generated = {"generated_text": before + answer.finish.text}
    if parameters.details or parameters.decoder_input_details:
        body["details"] = _details(answer, parameters, before)
    return body


def _details(answer: Answer, parameters: Parameters, before: str) -> answers.Details:
    details: answers.Details = {
        "finish_reason": answer.finish.reason,
        "generated_tokens": answer.finish.generated_tokens,
        "seed": answer.finish.seed,
        "prefill": [_prompt_token(event.token) for event in answer.prompt],
        "tokens": [_token(event.token) for event in answer.events],
    }
    if answer.others:
        details["best_of_sequences"] = [
            {"generated_text": before + other.finish.text, **_details(other, parameters, before)}
            for other in answer.others
        ]
    if parameters.top_n_tokens:
        details["top_tokens"] = [[_token(top) for top in event.top_tokens] for event in answer.events]
    return details


class StreamAnswer:
    """The events of one stream.

    Args:
        parameters: of the request.
        before: what the generated text of the last event begins with.
    """

    def __init__(self, parameters: Parameters, before: str) -> None:
        self._details = parameters.details
        self._before = before
        self._index = 0

    def events(self, candidate: int, event: TokenEvent) -> list[answers.StreamEvent]:
        """The one event of a token; `index` counts from 1."""
        self._index += 1
        token, finish = _token(event.token), event.finish
        text = None if finish is None else self._before + finish.text
        details = None if finish is None or not self._details else _finish(finish)
        if not event.top_tokens:
            return [{"index": self._index, "token": token, "generated_text": text, "details": details}]
        tops = [_token(top) for top in event.top_tokens]
        return [{"index": self._index, "token": token, "top_tokens": tops, "generated_text": text, "details": details}]


def joined(items: Sequence[Any], piece: int = 4096) -> bytes:
    """A JSON list, written piece by piece: one call for a million items would hold up all other threads."""
    pieces = [dumps(items[start : start + piece])[1:-1] for start in range(0, len(items), piece)]
    return b"[%b]" % b",".join(pieces)


def _finish(finish: Finish) -> answers.StreamDetails:
    return {
        "finish_reason": finish.reason,
        "generated_tokens": finish.generated_tokens,
        "seed": finish.seed,
    }


def _prompt_token(token: Token) -> answers.PromptToken:
    return {"id": token.id, "text": token.text, "logprob": single(token.logprob)}


def _token(token: Token) -> answers.Token:
    return {"id": token.id, "text": token.text, "logprob": single(token.logprob), "special": token.special}

"""What the OpenAI endpoints answer: whole objects, stream chunks and the error envelope."""

from __future__ import annotations

import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from tgi_server import __version__
from tgi_server.errors import GenerationError, TgiError
from tgi_server.router.calls import Answer, Call
from tgi_server.router.wire import ChatBody, CompletionBody, OpenAIBody, StreamOptions, single
from tgi_server.types import FinishReason, Token, TokenEvent

Json = dict[str, Any]

SYSTEM_FINGERPRINT = f"{__version__}-native"

_ERROR_TYPES = {400: "invalid_request_error", 429: "rate_limit_error"}


def error_status(error: TgiError) -> int:
    """HTTP status on `/v1/*`: 400 for what the client did, 429 and 5xx as they are; a failed shard is a 500."""
    if isinstance(error, GenerationError):
        return 500
    return error.status if error.status == 429 or error.status >= 500 else 400


def envelope(error: TgiError) -> Json:
    """The error object of the OpenAI API. `code` is the server's own name of the error."""
    kind = _ERROR_TYPES.get(error_status(error), "server_error")
    return error_object(error.public_message(), kind, getattr(error, "param", None), error.error_type)


def error_object(message: str, kind: str, param: str | None, code: str | None) -> Json:
    """`{"error": …}` as OpenAI clients read it."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


class OpenAIAnswer(ABC):
    """One answer in the making, whole or in chunks: what chat and completion share.

    Args:
        body: the request.
        model: the served model's name.

    Attributes:
        prefix: how the answer's id begins.
        kind, chunk_kind: the `object` of a whole answer and of a chunk.
    """

    prefix: str
    kind: str
    chunk_kind: str

    def __init__(self, body: OpenAIBody, model: str) -> None:
        self._options = body.stream_options or StreamOptions()
        self._model = model
        self._id = f"{self.prefix}-{uuid.uuid4().hex}"
        self._created = int(time.time())
        self._prompt_tokens = 0
        self._sent = 0

    def start(self, call: Call) -> None:
        """The request was admitted."""
        self._prompt_tokens = call.prompt_tokens

    def whole(self, answer: Answer) -> Json:
        """The answer to a request that does not stream."""
        choice = self._choice(self._whole(answer.finish.text), answer.events)
        return self._object(self.kind, [choice]) | {"usage": self._usage(answer.finish.generated_tokens)}

    def chunk(self, event: TokenEvent) -> Json:
        """One token of a stream."""
        choice = self._choice(self._delta(_visible(event.token)), [event])
        self._sent += 1
        chunk = self._object(self.chunk_kind, [choice])
        if self._options.continuous_usage_stats:
            chunk["usage"] = self._usage(self._sent)
        elif self._options.include_usage:
            chunk["usage"] = None
        return chunk

    def closing(self) -> Json | None:
        """The chunk after the last token, with the token counts, where the client asked for it."""
        if not self._options.include_usage:
            return None
        return self._object(self.chunk_kind, []) | {"usage": self._usage(self._sent)}

    def _choice(self, text: Json, events: Sequence[TokenEvent]) -> Json:
        finish = events[-1].finish
        reason = None if finish is None else "length" if finish.reason is FinishReason.LENGTH else "stop"
        return {"index": 0, **text, "logprobs": self._logprobs(events), "finish_reason": reason}

    def _object(self, kind: str, choices: list[Json]) -> Json:
        return {
            "id": self._id,
            "object": kind,
            "created": self._created,
            "model": self._model,
            "system_fingerprint": SYSTEM_FINGERPRINT,
            "choices": choices,
        }

    def _usage(self, completion_tokens: int) -> Json:
        return {
            "prompt_tokens": self._prompt_tokens,
            "completion_tokens": completion_tokens,
            "total_tokens": self._prompt_tokens + completion_tokens,
        }

    @abstractmethod
    def _whole(self, text: str) -> Json:
        """The part of a whole choice that holds the text."""

    @abstractmethod
    def _delta(self, text: str) -> Json:
        """The part of a streamed choice that holds the text."""

    @abstractmethod
    def _logprobs(self, events: Sequence[TokenEvent]) -> Json | None:
        """The `logprobs` of a choice, None where they were not asked for. Special tokens are left out."""


class ChatAnswer(OpenAIAnswer):
    """Answers of `/v1/chat/completions`."""

    prefix = "chatcmpl"
    kind = "chat.completion"
    chunk_kind = "chat.completion.chunk"

    def __init__(self, body: ChatBody, model: str) -> None:
        super().__init__(body, model)
        self._wants_logprobs = bool(body.logprobs)
        self._top = body.top_logprobs or 0

    def _whole(self, text: str) -> Json:
        return {"message": {"role": "assistant", "content": text}}

    def _delta(self, text: str) -> Json:
        """The role comes in the first delta only."""
        return {"delta": {"content": text} if self._sent else {"role": "assistant", "content": text}}

    def _logprobs(self, events: Sequence[TokenEvent]) -> Json | None:
        if not self._wants_logprobs:
            return None
        content = [
            _chat_logprob(event.token) | {"top_logprobs": [_chat_logprob(top) for top in event.top_tokens[: self._top]]}
            for event in events
            if not event.token.special
        ]
        return {"content": content, "refusal": None}


class CompletionAnswer(OpenAIAnswer):
    """Answers of `/v1/completions`."""

    prefix = "cmpl"
    kind = chunk_kind = "text_completion"

    def __init__(self, body: CompletionBody, model: str) -> None:
        super().__init__(body, model)
        self._top = body.logprobs
        self._offset = 0

    def _whole(self, text: str) -> Json:
        return {"text": text}

    def _delta(self, text: str) -> Json:
        return {"text": text}

    def _logprobs(self, events: Sequence[TokenEvent]) -> Json | None:
        if self._top is None:
            return None
        shown = [event for event in events if not event.token.special]
        offsets = []
        for event in shown:
            offsets.append(self._offset)
            self._offset += len(event.token.text)
        return {
            "tokens": [event.token.text for event in shown],
            "token_logprobs": [single(event.token.logprob) for event in shown],
            "top_logprobs": [
                {top.text: single(top.logprob) for top in event.top_tokens[: self._top]} for event in shown
            ],
            "text_offset": offsets,
        }


def _visible(token: Token) -> str:
    """The text a token shows: special tokens show none."""
    return "" if token.special else token.text


def _chat_logprob(token: Token) -> Json:
    return {"token": token.text, "logprob": single(token.logprob), "bytes": list(token.text.encode())}

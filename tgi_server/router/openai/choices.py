"""One choice of an OpenAI answer: its text, calls and log-probabilities, whole or piece by piece."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol, TypeVar

from tgi_server.engine.generation import Generation
from tgi_server.engine.thoughts import Thought
from tgi_server.router.chat.reader import AnswerReader, Part
from tgi_server.router.http.calls import Answer
from tgi_server.router.http.wire import single
from tgi_server.router.openai import answers
from tgi_server.router.openai.requests import ChatBody, CompletionBody
from tgi_server.types import FinishReason, Token, TokenEvent

Whole = TypeVar("Whole", bound=answers.Numbered, covariant=True)
Piece = TypeVar("Piece", bound=answers.Numbered, covariant=True)


class Choice(Protocol[Whole, Piece]):
    """A choice in the making, taken whole or in chunks."""

    def whole(self, answer: Answer) -> Whole:
        """All of it."""

    def chunks(self, event: TokenEvent) -> Iterator[Piece]:
        """What one token adds."""

    @property
    def reasoning_tokens(self) -> int:
        """How many tokens so far are no part of the answer, but thought before."""


class ChatChoice:
    """A message of the assistant.

    Args:
        reader: takes the answer apart.
    """

    def __init__(self, index: int, body: ChatBody, reader: AnswerReader) -> None:
        self._index = index
        self._top = (body.top_logprobs or 0) if body.logprobs else None
        self._reader = reader
        self._tells_thoughts = body.include_reasoning is not False
        self._begun = False
        self._untold: list[TokenEvent] = []
        """Those whose log-probabilities go with the next piece."""

    def whole(self, answer: Answer) -> answers.MessageChoice:
        """See `Choice`."""
        thoughts, texts, calls = "", list[str](), list[answers.AssistantCall]()
        for part in [part for event in answer.events for part in self._parts(event)]:
            if isinstance(part, str):
                texts.append(part)
            elif isinstance(part, Thought):
                thoughts += part.text
            elif part.id is not None and part.name is not None:
                function: answers.CalledFunction = {"name": part.name, "arguments": part.arguments}
                calls.append({"id": part.id, "type": "function", "function": function})
            else:
                calls[-1]["function"]["arguments"] += part.arguments
        content = "".join(texts) if texts or not calls else None
        message: answers.AssistantMessage = {"role": "assistant", "content": content, "refusal": None}
        if thoughts:
            message["reasoning_content"] = message["reasoning"] = thoughts
        if calls:
            message["tool_calls"] = calls
        return {
            "index": self._index,
            "message": message,
            "logprobs": self._logprobs(answer.events[self.reasoning_tokens :]),
            "finish_reason": self._reason(answer.events[-1]),
        }

    def chunks(self, event: TokenEvent) -> Iterator[answers.MessagePiece]:
        """See `Choice`. The role comes with the first piece only."""
        thought = self.reasoning_tokens
        deltas = [_delta(part) for part in self._parts(event)] or ([{}] if event.finish else [])
        self._untold = [] if self.reasoning_tokens > thought else [*self._untold, event]
        for number, delta in enumerate(deltas, 1):
            if not self._begun:
                self._begun, delta = True, {"role": "assistant", **delta}
            yield {
                "index": self._index,
                "delta": delta,
                "logprobs": self._logprobs(self._untold),
                "finish_reason": self._reason(event) if number == len(deltas) else None,
            }
            self._untold = []

    @property
    def reasoning_tokens(self) -> int:
        """See `Choice`."""
        return self._reader.reasoning_tokens

    def _parts(self, event: TokenEvent) -> list[Part]:
        return [part for part in self._reader.parts(event) if self._tells_thoughts or not isinstance(part, Thought)]

    def _reason(self, event: TokenEvent) -> answers.ChatReason | None:
        reason = finish_reason(event)
        return "tool_calls" if reason == "stop" and self._reader.called else reason

    def _logprobs(self, events: Sequence[TokenEvent]) -> answers.ChatLogprobs | None:
        if self._top is None:
            return None
        content: list[answers.ChatLogprob] = [
            {
                **chat_logprob(event.token),
                "top_logprobs": [chat_logprob(top) for top in event.top_tokens[: self._top]],
            }
            for event in events
            if not event.token.special
        ]
        return {"content": content, "refusal": None}


class CompletionChoice:
    """A continuation, after its prompt if that is to be echoed.

    Args:
        prompt: text of the prompt.
        generation: whose prompt tokens are told with those of an echo.
    """

    def __init__(self, index: int, body: CompletionBody, prompt: str, generation: Generation) -> None:
        self._index = index
        self._top = body.logprobs
        self._prompt = prompt
        self._generation = generation
        self._echo = bool(body.echo)
        self._only_prompt = body.max_tokens == 0
        self._offset = 0
        self._begun = False

    def whole(self, answer: Answer) -> answers.TextChoice:
        """See `Choice`."""
        return self._piece(answer.finish.text, answer.events)

    def chunks(self, event: TokenEvent) -> Iterator[answers.TextChoice]:
        """See `Choice`."""
        yield self._piece("" if event.token.special else event.token.text, [event])

    @property
    def reasoning_tokens(self) -> int:
        """See `Choice`: it is all text."""
        return 0

    def _piece(self, text: str, events: Sequence[TokenEvent]) -> answers.TextChoice:
        reason = finish_reason(events[-1])
        if self._only_prompt:
            text, events = "", []
        if self._echo and not self._begun:
            text, events = self._prompt + text, [*self._generation.prompt, *events]
        self._begun = True
        return {"index": self._index, "text": text, "logprobs": self._logprobs(events), "finish_reason": reason}

    def _logprobs(self, events: Sequence[TokenEvent]) -> answers.TextLogprobs | None:
        """Without special tokens, unless the prompt is told too: then every position counts."""
        if self._top is None:
            return None
        told = [event for event in events if self._echo or not event.token.special]
        offsets = []
        for event in told:
            offsets.append(self._offset)
            self._offset += len(event.token.text) if self._is_text(event.token) else 0
        return {
            "tokens": [event.token.text for event in told],
            "token_logprobs": [single(event.token.logprob) for event in told],
            "top_logprobs": [_alternatives(event, self._top) for event in told],
            "text_offset": offsets,
        }

    def _is_text(self, token: Token) -> bool:
        """Special tokens are where the prompt spells them out."""
        return not token.special or self._prompt.startswith(token.text, self._offset)


def finish_reason(event: TokenEvent) -> answers.TextReason | None:
    """Why a text ended with this token, in OpenAI's words; None if it did not."""
    if event.finish is None:
        return None
    return "length" if event.finish.reason is FinishReason.LENGTH else "stop"


def _alternatives(event: TokenEvent, count: int) -> dict[str, float | None] | None:
    """The likeliest tokens and the one that is there; None at the start of a prompt, which has no distribution.

    Of tokens that look the same, as parts of a character do, the likeliest is told.
    """
    if event.token.logprob is None:
        return None
    told: dict[str, float | None] = {}
    for token in [*event.top_tokens[:count], event.token] if count else []:
        told.setdefault(token.text, single(token.logprob))
    return told


def _delta(part: Part) -> answers.Delta:
    if isinstance(part, str):
        return {"content": part}
    if isinstance(part, Thought):
        return {"reasoning_content": part.text, "reasoning": part.text}
    if part.id is None or part.name is None:
        return {"tool_calls": [{"index": part.index, "function": {"arguments": part.arguments}}]}
    function: answers.FunctionDelta = {"name": part.name, "arguments": part.arguments}
    return {"tool_calls": [{"index": part.index, "id": part.id, "type": "function", "function": function}]}


def chat_logprob(token: Token) -> answers.Alternative:
    """A token of a message with its log-probability."""
    return {"token": token.text, "logprob": single(token.logprob), "bytes": list(token.text.encode())}

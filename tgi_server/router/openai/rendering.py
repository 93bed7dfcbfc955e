"""How answers of the OpenAI API are made: whole objects and stream chunks."""

from __future__ import annotations

import time
import uuid
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Generic, NamedTuple, TypeVar

from tgi_server import __version__
from tgi_server.errors import TgiError
from tgi_server.router.chat.conversation import PreparedConversation
from tgi_server.router.http.answering import Making
from tgi_server.router.http.calls import Answer, Call
from tgi_server.router.http.stream import DONE, Framing
from tgi_server.router.openai.answers import (
    AnyChoice,
    Chunk,
    Completion,
    MessageChoice,
    MessagePiece,
    Numbered,
    OpenAIErrorEnvelope,
    TextChoice,
    Usage,
)
from tgi_server.router.openai.choices import ChatChoice, Choice, CompletionChoice
from tgi_server.router.openai.errors import envelope
from tgi_server.router.openai.requests import ChatBody, CompletionBody, OpenAIBody, StreamOptions
from tgi_server.types import TokenEvent

Whole = TypeVar("Whole", bound=Numbered)
Piece = TypeVar("Piece", bound=Numbered)


class Served(NamedTuple):
    """What answers say of the server: the model's name, and what it runs with."""

    model: str
    fingerprint: str

    @staticmethod
    def of(model: str, docker_label: str | None) -> Served:
        """This version of the program, in a container image or not."""
        return Served(model, f"{__version__}-{docker_label or 'native'}")


class OpenAIAnswer(Making, Generic[Whole, Piece]):
    """One answer in the making, whole or in chunks: what chat and completion share.

    Args:
        body: the request.
        served: what the answer says of the server.

    Attributes:
        prefix: how the answer's id begins.
        kind, chunk_kind: the `object` of a whole answer and of a chunk.
    """

    prefix: str
    kind: str
    chunk_kind: str
    framing = Framing(end=DONE)

    def __init__(self, body: OpenAIBody, served: Served) -> None:
        self._options = body.stream_options or StreamOptions()
        self._served = served
        self._id = f"{self.prefix}-{uuid.uuid4().hex}"
        self._created = int(time.time())
        self._call: Call
        self._choices: list[Choice[Whole, Piece]]
        self._generated = 0

    def start(self, call: Call) -> tuple[()]:
        """See `Making`: no event comes before the first token."""
        self._call = call
        self._choices = [self._choice(index, call) for index in range(len(call.candidates))]
        return ()

    def whole(self, answers: Sequence[Answer]) -> Completion[Whole]:
        """The answer to a request that does not stream."""
        self._generated = sum(answer.finish.generated_tokens for answer in answers)
        choices = [self._choices[index].whole(answers[index]) for index in self._kept(answers)]
        for index, choice in enumerate(choices):
            choice["index"] = index
        return {**self._object(self.kind, choices), "usage": self._usage()}

    def chunks(self, index: int, event: TokenEvent) -> Iterator[Chunk[Piece]]:
        """What one token adds to the stream of choice `index`."""
        self._generated += 1
        for choice in self._choices[index].chunks(event):
            chunk = self._object(self.chunk_kind, [choice])
            if self._options.continuous_usage_stats:
                chunk["usage"] = self._usage()
            elif self._options.include_usage:
                chunk["usage"] = None
            yield chunk

    def closing(self) -> Chunk[Piece] | None:
        """The chunk after the last token, with the token counts, where the client asked for it."""
        if not self._options.include_usage:
            return None
        chunk = self._object(self.chunk_kind, list[Piece]())
        chunk["usage"] = self._usage()
        return chunk

    def failed(self, error: TgiError) -> OpenAIErrorEnvelope:
        """See `Making`."""
        return envelope(error)

    def _object(self, kind: str, choices: list[AnyChoice]) -> Chunk[AnyChoice]:
        return {
            "id": self._id,
            "object": kind,
            "created": self._created,
            "model": self._served.model,
            "system_fingerprint": self._served.fingerprint,
            "choices": choices,
        }

    def _usage(self) -> Usage:
        prompt, completion = self._call.prompt_tokens, self._counted(self._generated)
        reasoning = sum(choice.reasoning_tokens for choice in self._choices)
        return {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
            "prompt_tokens_details": {"cached_tokens": self._call.cached_tokens},
            "completion_tokens_details": {"reasoning_tokens": reasoning},
        }

    def _counted(self, generated: int) -> int:
        """Of the generated tokens, those that the client asked for."""
        return generated

    def _kept(self, answers: Sequence[Answer]) -> Sequence[int]:
        """Which of the generated texts are the answer."""
        return range(len(answers))

    @abstractmethod
    def _choice(self, index: int, call: Call) -> Choice[Whole, Piece]:
        """The beginning of choice `index`."""


class ChatAnswer(OpenAIAnswer[MessageChoice, MessagePiece]):
    """Answers of `/v1/chat/completions`."""

    prefix = "chatcmpl"
    kind = "chat.completion"
    chunk_kind = "chat.completion.chunk"

    def __init__(self, body: ChatBody, served: Served) -> None:
        super().__init__(body, served)
        self._body = body

    def _choice(self, index: int, call: Call) -> ChatChoice:
        assert isinstance(call.prepared, PreparedConversation)
        return ChatChoice(index, self._body, call.prepared.reader())


class CompletionAnswer(OpenAIAnswer[TextChoice, TextChoice]):
    """Answers of `/v1/completions`."""

    prefix = "cmpl"
    kind = chunk_kind = "text_completion"

    def __init__(self, body: CompletionBody, served: Served) -> None:
        super().__init__(body, served)
        self._body = body

    def _choice(self, index: int, call: Call) -> CompletionChoice:
        prompts = call.prepared.prompts
        text = prompts[index // call.each].text
        return CompletionChoice(index, self._body, text, call.candidates[index])

    def _kept(self, answers: Sequence[Answer]) -> Sequence[int]:
        """The likeliest `n` of each prompt's."""
        wanted, each = self._body.n or 1, self._call.each
        if each == wanted:
            return range(len(answers))
        groups = (range(start, start + each) for start in range(0, len(answers), each))
        best = (sorted(group, key=lambda index: -answers[index].mean_logprob)[:wanted] for group in groups)
        return [index for group in best for index in group]

    def _counted(self, generated: int) -> int:
        return 0 if self._body.max_tokens == 0 else generated

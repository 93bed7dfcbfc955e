"""What clients get: the shape of every answer, event and error body.

The builders of answers are typed with these, and `openapi` describes them to the world, so the two cannot differ. They
are plain dictionaries, because one is made for every token.
"""

from __future__ import annotations

from typing import Generic, Literal, NotRequired, TypedDict, TypeVar

from tgi_server.types import FinishReason


class Error(TypedDict):
    """Why a request has no answer."""

    error: str
    error_type: str


class PromptToken(TypedDict):
    """A token of the prompt. The first one has no log-probability."""

    id: int
    text: str
    logprob: float | None


class Token(TypedDict):
    """A generated token, or one that might have been."""

    id: int
    text: str
    logprob: float | None
    special: bool


class StreamDetails(TypedDict):
    """How a generation ended."""

    finish_reason: FinishReason
    generated_tokens: int
    seed: int | None


class Details(StreamDetails):
    """How a generation ended, and all its tokens."""

    prefill: list[PromptToken]
    tokens: list[Token]
    best_of_sequences: NotRequired[list[BestOfSequence]]
    top_tokens: NotRequired[list[list[Token]]]


class BestOfSequence(Details):
    """A text of `best_of` that was less likely than the answer."""

    generated_text: str


class Generated(TypedDict):
    """A whole answer of the native API."""

    generated_text: str
    details: NotRequired[Details]


class StreamEvent(TypedDict):
    """One token of a stream of the native API. The last one has the whole text."""

    index: int
    token: Token
    top_tokens: NotRequired[list[Token]]
    generated_text: str | None
    details: StreamDetails | None


class TokenSpan(TypedDict):
    """A token of a text, and where it stands in it."""

    id: int
    text: str
    start: int
    stop: int


class Info(TypedDict):
    """What is served, and within which limits."""

    model_id: str
    model_sha: str | None
    model_dtype: str
    model_device_type: str
    model_pipeline_tag: str | None
    max_concurrent_requests: int
    max_best_of: int
    max_stop_sequences: int
    max_input_length: int
    max_total_tokens: int
    waiting_served_ratio: float
    max_batch_total_tokens: int
    max_waiting_tokens: int
    max_batch_size: int | None
    validation_workers: int
    version: str
    sha: str | None
    docker_label: str | None


ErrorKind = Literal["invalid_request_error", "rate_limit_error", "server_error"]


class OpenAIError(TypedDict):
    """Why a request has no answer, in OpenAI's words."""

    message: str
    type: ErrorKind
    param: str | None
    code: str | None


class OpenAIErrorEnvelope(TypedDict):
    """The body of every error of the OpenAI API."""

    error: OpenAIError


class Model(TypedDict):
    """A model that is served."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class ModelList(TypedDict):
    """The models that are served."""

    object: Literal["list"]
    data: list[Model]


class Usage(TypedDict):
    """How many tokens a request took."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Alternative(TypedDict):
    """A token, its log-probability and the bytes of its text."""

    token: str
    logprob: float | None
    bytes: list[int]


class ChatLogprob(Alternative):
    """A token of a message, and what might have stood there."""

    top_logprobs: list[Alternative]


class ChatLogprobs(TypedDict):
    """Log-probabilities of the tokens of a message."""

    content: list[ChatLogprob]
    refusal: None


class CalledFunction(TypedDict):
    """A function and the text of the JSON object of its arguments."""

    name: str
    arguments: str


class AssistantCall(TypedDict):
    """A function that the model wants to be called."""

    id: str
    type: Literal["function"]
    function: CalledFunction


class AssistantMessage(TypedDict):
    """What the model says."""

    role: Literal["assistant"]
    content: str | None
    refusal: None
    tool_calls: NotRequired[list[AssistantCall]]


class Numbered(TypedDict):
    """One of several texts."""

    index: int


ChatReason = Literal["stop", "length", "tool_calls"]
TextReason = Literal["stop", "length"]


class MessageChoice(Numbered):
    """A message that answers a conversation."""

    message: AssistantMessage
    logprobs: ChatLogprobs | None
    finish_reason: ChatReason | None


class FunctionDelta(TypedDict):
    """More of a call. The name comes first, and once."""

    name: NotRequired[str]
    arguments: str


class CallDelta(TypedDict):
    """More of the call with number `index`. What it calls comes first, and once."""

    index: int
    id: NotRequired[str]
    type: NotRequired[Literal["function"]]
    function: FunctionDelta


class Delta(TypedDict, total=False):
    """More of a message. The role comes first, and once."""

    role: Literal["assistant"]
    content: str
    tool_calls: list[CallDelta]


class MessagePiece(Numbered):
    """More of the message with number `index`."""

    delta: Delta
    logprobs: ChatLogprobs | None
    finish_reason: ChatReason | None


class TextLogprobs(TypedDict):
    """Log-probabilities of the tokens of a text: four lists with one item a token."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float | None] | None]
    text_offset: list[int]


class TextChoice(Numbered):
    """A continuation, or more of it."""

    text: str
    logprobs: TextLogprobs | None
    finish_reason: TextReason | None


AnyChoice = TypeVar("AnyChoice", bound=Numbered)
"""`MessageChoice`, `MessagePiece` or `TextChoice`."""


class Told(TypedDict, Generic[AnyChoice]):
    """What a whole answer of the OpenAI API and an event of a stream share."""

    id: str
    object: str
    created: int
    model: str
    system_fingerprint: str
    choices: list[AnyChoice]


class Completion(Told[AnyChoice]):
    """A whole answer of the OpenAI API."""

    usage: Usage


class Chunk(Told[AnyChoice]):
    """One event of a stream of the OpenAI API."""

    usage: NotRequired[Usage | None]

"""What clients of the OpenAI API get: the shape of every answer, chunk and error."""

from __future__ import annotations

from typing import Generic, Literal, NotRequired, TypedDict, TypeVar

ErrorKind = Literal["invalid_request_error", "rate_limit_error", "server_error"]


class OpenAIError(TypedDict):
    """Why a request has no answer, in OpenAI's words."""

    message: str
    """What is wrong, for a person."""
    type: ErrorKind
    param: str | None
    """The field at fault, where there is one."""
    code: str | None
    """What is wrong, for a program: `context_length_exceeded` and `model_not_found` as OpenAI has them, or else the
    server's own word, as in `error_type` of the native API."""


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


class PromptTokensDetails(TypedDict):
    """What was done before of the prompt."""

    cached_tokens: int
    """Tokens that were found in the cache and not computed again, before the first text of each prompt."""


class CompletionTokensDetails(TypedDict):
    """Of what kinds the generated tokens are."""

    reasoning_tokens: int
    """What the model thought before it answered, and the marks around that."""


class Usage(TypedDict):
    """How many tokens a request took."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails
    completion_tokens_details: CompletionTokensDetails


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
    """`null` if the answer is nothing but calls."""
    refusal: None
    reasoning_content: NotRequired[str]
    """What the model thought before, if it did."""
    reasoning: NotRequired[str]
    """The same text again."""
    tool_calls: NotRequired[list[AssistantCall]]
    """There if a function is to be called."""


class Numbered(TypedDict):
    """One of several texts."""

    index: int


ChatReason = Literal["stop", "length", "tool_calls"]
TextReason = Literal["stop", "length"]


class MessageChoice(Numbered):
    """A message that answers a conversation."""

    message: AssistantMessage
    logprobs: ChatLogprobs | None
    """`null` if `logprobs` was not asked for."""
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
    reasoning_content: str
    reasoning: str
    """The same text again."""
    content: str
    tool_calls: list[CallDelta]


class MessagePiece(Numbered):
    """More of the message with number `index`."""

    delta: Delta
    logprobs: ChatLogprobs | None
    """`null` if `logprobs` was not asked for."""
    finish_reason: ChatReason | None
    """`null` but in the last piece."""


class TextLogprobs(TypedDict):
    """Log-probabilities of the tokens of a text: four lists with one item a token."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float | None] | None]
    """Log-probabilities of the likeliest tokens; `null` for the first token of a prompt."""
    text_offset: list[int]
    """Where the token begins in the text, in characters."""


class TextChoice(Numbered):
    """A continuation, or more of it."""

    text: str
    logprobs: TextLogprobs | None
    """`null` if `logprobs` was not asked for."""
    finish_reason: TextReason | None
    """`null` in all pieces of a stream but the last."""


AnyChoice = TypeVar("AnyChoice", bound=Numbered)
"""`MessageChoice`, `MessagePiece` or `TextChoice`."""


class Told(TypedDict, Generic[AnyChoice]):
    """What a whole answer of the OpenAI API and an event of a stream share."""

    id: str
    object: str
    created: int
    """Seconds since 1970."""
    model: str
    """The model that is served."""
    system_fingerprint: str
    choices: list[AnyChoice]
    """In a stream one piece; none in the chunk that has the token counts only."""


class Completion(Told[AnyChoice]):
    """A whole answer of the OpenAI API."""

    usage: Usage


class Chunk(Told[AnyChoice]):
    """One event of a stream of the OpenAI API."""

    usage: NotRequired[Usage | None]
    """There if `stream_options` asked for it."""

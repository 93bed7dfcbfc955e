"""What clients send: the request bodies, how strictly they are read, and how answers are written as JSON.

Integer fields refuse `10.0`, float fields accept `1`, `null` is taken only where a field allows it, and fields that
nobody knows are ignored. Fields that are known but not served are read here and refused in `validate`.
"""

from __future__ import annotations

import math
import struct
from functools import cache
from typing import Annotated, Any, Literal, TypeVar

import msgspec
import orjson
from msgspec import UNSET, Meta, Struct, UnsetType, structs

from tgi_server.errors import TgiError

UInt32 = Annotated[int, Meta(ge=0, le=2**32 - 1)]
Int32 = Annotated[int, Meta(ge=-(2**31), le=2**31 - 1)]
UInt64 = Annotated[int, Meta(ge=0)]
"""Never negative; the upper bound is checked by `_fits_64_bits`, as it is beyond what `Meta` can say."""

MAX_UINT64 = 2**64 - 1
_SINGLE = struct.Struct("f")
_UNLOGGED = frozenset(
    [
        "messages", "prompt", "suffix", "grammar", "tools", "tool_choice", "functions", "function_call",
        "response_format", "logit_bias",
    ]
)  # fmt: skip
BodyType = TypeVar("BodyType", bound=Struct)


class BodyError(TgiError):
    """A body that cannot be read as the expected request; native routes answer it as plain text."""

    error_type = "validation"
    label = "validation"

    def __init__(self, message: str, status: int, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.param = param


class TextFormat(Struct, frozen=True, tag_field="type", tag="text"):
    """Any text."""


class JsonObjectFormat(Struct, frozen=True, tag_field="type", tag="json_object"):
    """A JSON object; of TGI's clients one that follows the JSON schema `value`."""

    value: Any = UNSET


class JsonFormat(Struct, frozen=True, tag_field="type", tag="json"):
    """JSON that follows the JSON schema `value`, an object or its text."""

    value: Any


class NamedSchema(Struct, frozen=True):
    """A JSON schema as OpenAI has it. It is always followed strictly."""

    schema: Any = UNSET
    name: str = ""
    description: str | None = None
    strict: bool | None = None


class JsonSchemaFormat(Struct, frozen=True, tag_field="type", tag="json_schema"):
    """JSON that follows a JSON schema: `json_schema` as OpenAI has it, or `value` as TGI has it."""

    json_schema: NamedSchema | UnsetType = UNSET
    value: Any = UNSET


class RegexFormat(Struct, frozen=True, tag_field="type", tag="regex"):
    """A text that the regular expression `value` matches as a whole."""

    value: str


Format = TextFormat | JsonObjectFormat | JsonFormat | JsonSchemaFormat | RegexFormat
"""What a generated text has to look like."""


class Parameters(Struct, frozen=True, omit_defaults=True):
    """The `parameters` of the native API."""

    best_of: UInt64 | None = None
    temperature: float | None = None
    repetition_penalty: float | None = None
    frequency_penalty: float | None = None
    top_k: Int32 | None = None
    top_p: float | None = None
    typical_p: float | None = None
    do_sample: bool = False
    max_new_tokens: UInt32 | None = 100
    return_full_text: bool | None = None
    stop: list[str] = []
    truncate: UInt64 | None = None
    watermark: bool = False
    details: bool = False
    decoder_input_details: bool = False
    seed: UInt64 | None = None
    top_n_tokens: UInt32 | None = None
    grammar: Format | None = None

    def __post_init__(self) -> None:
        _fits_64_bits(best_of=self.best_of, truncate=self.truncate, seed=self.seed)


class GenerateBody(Struct, frozen=True):
    """Body of `/generate`, `/generate_stream`, `/tokenize` and `/` (the only one that reads `stream`)."""

    inputs: str
    parameters: Parameters | UnsetType = UNSET
    stream: bool = False


class StreamOptions(Struct, frozen=True, omit_defaults=True):
    """When a stream of the OpenAI API reports token counts: in a last chunk, and in every chunk."""

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None


class OpenAIBody(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the chat and the completion request share. The last fields are read to be refused."""

    model: str | None = None
    max_tokens: UInt32 | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: Int32 | None = None
    repetition_penalty: float | None = None
    frequency_penalty: float | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    ignore_eos: bool | None = None
    n: Int32 | None = None
    presence_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    min_p: float | None = None
    typical_p: float | None = None
    watermark: bool | None = None
    response_format: Format | None = None
    min_tokens: int | None = None
    stop_token_ids: list[int] | None = None

    def __post_init__(self) -> None:
        _fits_64_bits(seed=self.seed)


class TextPart(Struct, frozen=True):
    """The one kind of content part that a text model can read."""

    text: str
    type: Literal["text"] = "text"


class FunctionCall(Struct, frozen=True):
    """Which function is called; the arguments are a JSON object, or its text."""

    name: str
    arguments: str | dict[str, Any] = "{}"


class ToolCall(Struct, frozen=True):
    """A call that the assistant made earlier."""

    function: FunctionCall
    id: str | None = None
    type: Literal["function"] = "function"


class Message(Struct, frozen=True):
    """One turn of a conversation."""

    role: str
    content: str | list[TextPart] | None = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None


class Function(Struct, frozen=True, omit_defaults=True):
    """A function that the model may call; `parameters` is the JSON schema of its arguments, always followed."""

    name: Annotated[str, Meta(pattern="^[a-zA-Z0-9_.-]{1,64}$")]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None

    def __post_init__(self) -> None:
        if self.name.endswith("\n"):  # which `$` lets pass
            raise ValueError("a line break in the name of a function")
        if self.parameters is not None and self.parameters.get("type", "object") != "object":
            raise ValueError("the arguments of a function are an object")


class Tool(Struct, frozen=True):
    """Something the model may use."""

    function: Function
    type: Literal["function"] = "function"


class FunctionName(Struct, frozen=True):
    """The name of a function."""

    name: str


class NamedTool(Struct, frozen=True):
    """The tool that has to be used."""

    function: FunctionName
    type: Literal["function"] = "function"


class ChatBody(OpenAIBody, frozen=True, kw_only=True, omit_defaults=True):
    """Body of `/v1/chat/completions`."""

    messages: Annotated[list[Message], Meta(min_length=1)]
    max_completion_tokens: UInt32 | None = None
    logprobs: bool | None = None
    top_logprobs: UInt32 | None = None
    tools: list[Tool] | None = None
    tool_choice: str | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    functions: list[Any] | None = None
    function_call: Any = None


class CompletionBody(OpenAIBody, frozen=True, kw_only=True, omit_defaults=True):
    """Body of `/v1/completions`. A list of integers is one prompt given as token ids."""

    prompt: str | list[str | int | list[int]]
    logprobs: UInt32 | None = None
    best_of: Int32 | None = None
    echo: bool | None = None
    suffix: str | None = None


def _fits_64_bits(**values: int | None) -> None:
    for name, value in values.items():
        if value is not None and not -(2**63) <= value <= MAX_UINT64:
            raise ValueError(f"`{name}` does not fit into 64 bits")


_DECODERS: dict[type[Struct], msgspec.json.Decoder[Any]] = {
    body: msgspec.json.Decoder(body) for body in (GenerateBody, ChatBody, CompletionBody)
}


def parse(body_type: type[BodyType], data: bytes, content_type: str) -> BodyType:
    """Read a request body.

    Raises:
        BodyError: status 415 for another content type than JSON, 400 for text that is not JSON (or not UTF-8),
            422 for JSON of another shape, naming the field.
    """
    check_type(content_type)
    try:
        body: BodyType = _DECODERS[body_type].decode(data)
    except msgspec.ValidationError as error:
        message, _, path = str(error).partition(" - at `$.")
        param = path.rstrip("`") or None
        raise BodyError(f"{param}: {message}" if param else message, 422, param) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BodyError(f"Failed to parse the request body as JSON: {error}", 400) from None
    return body


def check_type(content_type: str) -> None:
    """Raise BodyError (415) for another content type than JSON."""
    kind, _, subtype = content_type.partition(";")[0].strip().lower().partition("/")
    if kind != "application" or not (subtype == "json" or subtype.endswith("+json")):
        raise BodyError("Expected request with `Content-Type: application/json`", 415)


def without_text(asked: Struct) -> dict[str, Any]:
    """What a client set, for the log: without defaults, and without the texts, which are nobody else's business.

    The fields of free shape go with them: one may be nested so deep that it can be read but not be written.
    """
    fields: dict[str, Any] = msgspec.to_builtins(structs.replace(asked, **_blanks(type(asked))))
    return {name: value for name, value in fields.items() if name not in _UNLOGGED}


@cache
def _blanks(kind: type[Struct]) -> dict[str, None]:
    return dict.fromkeys(_UNLOGGED.intersection(kind.__struct_fields__))


def dumps(answer: Any) -> bytes:
    """JSON text of an answer; NaN and infinities become `null`."""
    return orjson.dumps(answer)


def single(value: float | None) -> float | None:
    """The float whose shortest decimal is the shortest one of the 32-bit float nearest to `value`.

    Log-probabilities are 32-bit numbers; printed as 64-bit ones they would show digits that mean nothing.
    NaN and infinities, which JSON cannot say, become None.
    """
    if value is None or not math.isfinite(value):
        return None
    exact: float = _SINGLE.unpack(_SINGLE.pack(value))[0]
    for digits in (6, 7, 8):
        short = float(f"{exact:.{digits}g}")
        if _SINGLE.unpack(_SINGLE.pack(short))[0] == exact:
            return short
    return float(f"{exact:.9g}")

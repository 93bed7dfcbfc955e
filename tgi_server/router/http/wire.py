"""How request bodies are read and answers are written as JSON, the same for all APIs.

Integer fields refuse `10.0`, float fields accept `1`, `null` is taken only where a field allows it, and fields that
nobody knows are ignored. Fields that are known but not served are read and refused by the rules of their API.
"""

from __future__ import annotations

import json
import math
import struct
from functools import cache
from typing import Annotated, Any, ClassVar, TypeVar

import msgspec
import orjson
from msgspec import Meta, Struct, inspect, structs

from tgi_server.errors import TgiError

UInt32 = Annotated[int, Meta(ge=0, le=2**32 - 1)]
Int32 = Annotated[int, Meta(ge=-(2**31), le=2**31 - 1)]
UInt64 = Annotated[int, Meta(ge=0)]
"""Never negative; the upper bound is checked by `fits_64_bits`, as it is beyond what `Meta` can say."""
MAX_UINT64 = 2**64 - 1
_PLAIN = (inspect.IntType, inspect.FloatType, inspect.BoolType, inspect.NoneType, inspect.LiteralType)
"""Numbers, switches and words of ours."""
_SINGLE = struct.Struct("f")
_TELLS_NOTHING = ("Expected `", "Object missing required field")
"""How messages of the decoder begin that do not quote what a client wrote."""


class Body(Struct, frozen=True):
    """A request, or the part of one that says how to generate.

    Attributes:
        GUIDES: the fields that may need a grammar made, which can take a while.
        OPERATION: what it asks for, as OpenTelemetry's GenAI conventions call it.
    """

    GUIDES: ClassVar[tuple[str, ...]] = ()
    OPERATION: ClassVar[str] = "text_completion"

    def status_of(self, error: TgiError) -> int:
        """The HTTP status by which its API tells of an error, as long as no answer has begun."""
        return error.status

    @property
    def guided(self) -> bool:
        """Whether a grammar may have to be made."""
        return any(getattr(self, name) for name in self.GUIDES)


BodyType = TypeVar("BodyType", bound=Body)


class BodyError(TgiError):
    """A body that cannot be read as the expected request; native routes answer it as plain text."""

    error_type = "validation"
    label = "validation"

    def __init__(self, message: str, status: int, param: str | None = None, logged: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.param = param
        self.logged = logged


def fits_64_bits(**values: int | None) -> None:
    """Raise ValueError for a number that is larger than any of 64 bits, naming its field."""
    for name, value in values.items():
        if value is not None and not -(2**63) <= value <= MAX_UINT64:
            raise ValueError(f"`{name}` does not fit into 64 bits")


def parse(body_type: type[BodyType], data: bytes, content_type: str) -> BodyType:
    """Read a request body.

    Raises:
        BodyError: status 415 for another content type than JSON, 400 for text that is not JSON (or not UTF-8),
            422 for JSON of another shape, naming the field.
    """
    check_type(content_type)
    if not data.strip():  # the decoder would call it truncated
        raise BodyError("The request body is empty; a JSON object is expected", 400)
    try:
        body: BodyType = _decoder(body_type).decode(data)
    except msgspec.ValidationError as error:
        message, _, path = str(error).partition(" - at `$.")
        param = path.rstrip("`") or None
        told = message if message.startswith(_TELLS_NOTHING) else "not as expected"
        place = f"{param}: " if param else ""
        raise BodyError(f"{place}{message}", 422, param, f"{place}{told}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BodyError(f"Failed to parse the request body as JSON: {error}", 400) from None
    return body


def check_type(content_type: str) -> None:
    """Raise BodyError (415) for another content type than JSON."""
    kind, _, subtype = content_type.partition(";")[0].strip().lower().partition("/")
    if kind != "application" or not (subtype == "json" or subtype.endswith("+json")):
        raise BodyError("Expected request with `Content-Type: application/json`", 415)


@cache
def _decoder(body_type: type[BodyType]) -> msgspec.json.Decoder[BodyType]:
    return msgspec.json.Decoder(body_type)


def without_text(asked: Body) -> dict[str, Any]:
    """What a client set, for the log: without defaults, and without what it wrote, which is nobody else's business.

    That are all fields that may hold a text or a list, names among them, or be of any shape: one of these may be nested
    so deep that it can be read but not be written.
    """
    blanks = _blanks(type(asked))
    fields: dict[str, Any] = msgspec.to_builtins(structs.replace(asked, **blanks))
    return {name: value for name, value in fields.items() if name not in blanks}


@cache
def _blanks(kind: type[Body]) -> dict[str, None]:
    known = inspect.type_info(kind)
    assert isinstance(known, inspect.StructType)
    return {field.name: None for field in known.fields if not _plain(field.type)}


def _plain(kind: inspect.Type) -> bool:
    """Whether values of that type cannot hold what a client wrote."""
    match kind:
        case inspect.Metadata():
            return _plain(kind.type)
        case inspect.UnionType():
            return all(map(_plain, kind.types))
        case inspect.StructType():
            return all(_plain(field.type) for field in kind.fields)
        case _:
            return isinstance(kind, _PLAIN)


def dumps(answer: Any) -> bytes:
    """JSON text of an answer, which may be or hold structs; NaN and infinities become `null`."""
    try:
        return orjson.dumps(answer, default=msgspec.to_builtins)
    except orjson.JSONEncodeError:  # what a client sent or a model wrote: integers of any size, nested however deep
        try:
            return msgspec.json.encode(answer)
        except UnicodeEncodeError:  # halves of characters
            return json.dumps(msgspec.to_builtins(answer), separators=(",", ":")).encode()


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

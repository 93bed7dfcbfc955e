"""Ranges of fields that several APIs share."""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from tgi_server.errors import ValidationError


def check_above_zero(name: str, value: float | None) -> None:
    """Refuse zero and below, also what is only zero or infinite as the 32-bit float it is computed with.

    Raises:
        ValidationError: see above.
    """
    if value is not None:
        single = single_precision(value)
        require(single != math.inf, f"`{name}` is too large", name)
        require(single > 0, f"`{name}` must be strictly positive", name)


def single_precision(value: float) -> float:
    """The nearest 32-bit float."""
    try:
        return float(struct.unpack("<f", struct.pack("<f", value))[0])
    except OverflowError:
        return math.copysign(math.inf, value)


def check_penalty(name: str, value: float | None) -> None:
    """Refuse a penalty outside of -2 to 2.

    Raises:
        ValidationError: see above.
    """
    require(value is None or -2.0 <= value <= 2.0, f"`{name}` must be >= -2.0 and <= 2.0", name)


def require(holds: bool, message: str, param: str, logged: str | None = None) -> None:
    """Raise ValidationError with this message about the field `param` unless it `holds`; `logged` is the error's."""
    if not holds:
        raise ValidationError(message, param, logged=logged)


@contextmanager
def renamed(names: Mapping[str, str]) -> Iterator[None]:
    """Call the fields in errors what an API calls them: `names` has its names by those of the rules all APIs share.

    Raises:
        ValidationError: what was raised, in the API's words.
    """
    try:
        yield
    except ValidationError as error:
        message = str(error)
        for shared, own in names.items():
            message = re.sub(rf"`{shared}\b[^`]*`", f"`{own}`", message)
        head = re.split(r"\W", error.param or "", maxsplit=1)[0]
        raise ValidationError(message, names.get(head, error.param), error.code, error.logged) from None

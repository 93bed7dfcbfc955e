"""What the types of requests and answers say about their fields: the text below each of them."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any, get_args, get_origin, get_type_hints, is_typeddict

from msgspec import Struct


@cache
def field_docs(kind: Any) -> dict[str, str]:
    """Sentences about the fields of a struct or a typed dictionary, those that it inherits included."""
    docs: dict[str, str] = {}
    for part in reversed(list(_bases(get_origin(kind) or kind))):
        [definition] = ast.parse(textwrap.dedent(inspect.getsource(part))).body
        assert isinstance(definition, ast.ClassDef)
        for field, text in zip(definition.body, definition.body[1:], strict=False):
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and (said := _text(text)):
                docs[field.target.id] = said
    return docs


def named_types(kinds: Iterable[Any]) -> dict[str, Any]:
    """All structs and typed dictionaries that `kinds` are made of, by the names of the types."""
    found: dict[str, Any] = {}
    left = list(kinds)
    while left:
        kind = left.pop()
        left += get_args(kind)
        kind = get_origin(kind) or kind
        if _has_fields(kind) and kind.__name__ not in found:
            found[kind.__name__] = kind
            left += get_type_hints(kind).values()
    return found


def _has_fields(kind: Any) -> bool:
    return is_typeddict(kind) or (isinstance(kind, type) and issubclass(kind, Struct))


def _bases(kind: Any) -> Iterator[Any]:
    """The class and those that it inherits fields from; a typed dictionary only remembers them as written."""
    yield kind
    for base in getattr(kind, "__orig_bases__", kind.__bases__):
        base = get_origin(base) or base
        if _has_fields(base) and base is not Struct:
            yield from _bases(base)


def _text(statement: ast.stmt) -> str | None:
    if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
        return " ".join(str(statement.value.value).split())
    return None

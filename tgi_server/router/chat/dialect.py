"""What a chat template can take, found out by trying it, and conversations as it wants them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile

from tgi_server.router.chat.contents import Turn

Render = Callable[[Sequence[Turn]], str | None]
"""What a template makes of a conversation, None if it refuses it."""

_INSTRUCTING = ("system", "developer")
_FIRST, _SECOND, _THIRD = "first7word", "second7word", "third7word"


@dataclass(frozen=True, slots=True)
class Dialect:
    """How a template wants its conversations.

    Attributes:
        developer: it knows the role `developer`, which is `system` for all others.
        parts: it reads contents that are lists of parts, and no texts.
        one_system: it takes one system turn, at the beginning, and refuses or overlooks a second.
    """

    developer: bool = False
    parts: bool = False
    one_system: bool = False

    @staticmethod
    def of(words: Sequence[str], render: Render) -> Dialect:
        """The dialect of a template with these `words`, the texts that its code compares with."""
        dialect = Dialect(developer="developer" in words)
        turns = _turns("user", "assistant", "user")
        in_parts = replace(dialect, parts=True)
        if not _shows(render, turns, dialect) and _shows(render, turns, in_parts):
            dialect = in_parts
        single, double = _turns("system", "user"), _turns("system", "system", "user")
        one = not _shows(render, double, dialect) and _shows(render, single, dialect)
        return replace(dialect, one_system=one)

    def roles(self, turns: Sequence[Turn]) -> list[Turn]:
        """The turns with roles that the template knows; those at the beginning that instruct are one if need be."""
        known = [turn if self.developer else {**turn, "role": _known(turn["role"])} for turn in turns]
        leading = list(takewhile(lambda turn: turn["role"] in _INSTRUCTING, known))
        if not self.one_system or len(leading) < 2:
            return known
        text = "\n\n".join(turn["content"] for turn in leading)
        return [{**leading[0], "content": text}, *known[len(leading) :]]

    def contents(self, turns: Sequence[Turn]) -> list[Turn]:
        """The turns with contents in the shape that the template reads."""
        if not self.parts:
            return list(turns)
        return [{**turn, "content": [{"type": "text", "text": turn["content"]}]} for turn in turns]


def _known(role: str) -> str:
    return "system" if role == "developer" else role


def _turns(*roles: str) -> list[Turn]:
    return [{"role": role, "content": word} for role, word in zip(roles, (_FIRST, _SECOND, _THIRD), strict=False)]


def _shows(render: Render, turns: Sequence[Turn], dialect: Dialect) -> bool:
    """Whether a template shows all that is said."""
    text = render(dialect.contents(turns))
    return text is not None and all(turn["content"] in text for turn in turns)

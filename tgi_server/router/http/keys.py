"""Who may call: clients that send one of the server's keys, if it has any."""

from __future__ import annotations

import hmac
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any, cast

from quart import request
from werkzeug.datastructures import WWWAuthenticate
from werkzeug.exceptions import Unauthorized

Header = tuple[bytes, bytes]

MISSING = "This server needs an API key: send it as `Authorization: Bearer KEY` or `x-api-key: KEY`"
WRONG = "The API key is not one of this server's"


class Keys:
    """Refuses requests without a key, before anything of them is read but their head.

    Args:
        keys: of visible ASCII characters; where there are none, everybody may call.
        open_to_all: the blueprints whose routes need no key. Those of all others do, and so does what is no route.
    """

    def __init__(self, keys: Sequence[str], open_to_all: Collection[str]) -> None:
        self._keys = [key.encode() for key in keys]
        self._open = frozenset(open_to_all)

    async def check(self) -> None:
        """Raise Unauthorized (401) unless the current request may be answered."""
        if not self._keys or request.blueprint in self._open:
            return
        headers = cast(dict[str, Any], request.scope)["headers"]
        if not self.sent_in(headers):
            raise Unauthorized(WRONG if any(_sent(headers)) else MISSING, www_authenticate=WWWAuthenticate("bearer"))

    def sent_in(self, headers: Iterable[Header]) -> bool:
        """Whether a request with these headers, in lower case, may ask everything."""
        return not self._keys or bool(sum(self._matches(key) for key in _sent(headers)))

    def _matches(self, sent: bytes) -> int:
        """How many keys it is; takes as long whichever it is, and however much of it is right."""
        return sum(hmac.compare_digest(sent, key) for key in self._keys)


def _sent(headers: Iterable[Header]) -> Iterator[bytes]:
    """The keys of a request: as OpenAI's clients send them, and as Anthropic's do."""
    for name, value in headers:
        scheme, _, key = value.partition(b" ")
        if name == b"authorization" and scheme.lower() == b"bearer":
            yield key.strip(b" \t")
        elif name == b"x-api-key":
            yield value.strip(b" \t")

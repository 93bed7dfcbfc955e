"""The beginning of a request's prompt as a row of keys, whichever API it comes by."""

from __future__ import annotations

import hashlib
import struct
from typing import Any

import orjson

CHUNK = 64
"""Bytes of text that a key stands for, beyond those of the key before it."""
LONGEST = 4096
"""Keys of one prompt: what it says beyond these does not decide where it goes."""

_FIELDS = ("tools", "system", "instructions", "messages", "inputs", "prompt", "input")
"""Where prompts are, in the order in which chat templates usually write them."""


def keys(body: bytes) -> list[int]:
    """A key for each whole chunk of the prompt in a JSON body: of all text up to there; none of other bodies."""
    try:
        asked = orjson.loads(body)
        return keys_of(_text(asked)) if isinstance(asked, dict) else []
    except (ValueError, TypeError):  # what is nested too deeply can be read, but not be written again
        return []


def keys_of(text: bytes) -> list[int]:
    """The keys of a prompt's text, which are the same in every process: 64 bits each."""
    chain = hashlib.blake2b(digest_size=8)
    found = []
    for start in range(0, min(len(text) - CHUNK + 1, CHUNK * LONGEST), CHUNK):
        chain.update(text[start : start + CHUNK])
        found.append(struct.unpack("<q", chain.digest())[0])
    return found


def _text(asked: dict[str, Any]) -> bytes:
    """What there is of the prompt, one after the other."""
    return b"".join(_bytes(asked[name]) for name in _FIELDS if asked.get(name))


def _bytes(value: Any) -> bytes:
    return value.encode(errors="surrogatepass") if isinstance(value, str) else orjson.dumps(value)

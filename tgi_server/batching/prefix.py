"""Names for the blocks of a prompt: equal names mean equal keys and values in them."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from hashlib import blake2b

from tgi_server.types import BLOCK_SIZE


def block_keys(prompt_ids: Sequence[int], beside: bytes = b"") -> list[bytes]:
    """One key for each block that the prompt fills, chained: each covers the key before it and 16 tokens.

    `beside` names what keys and values depend on beside the tokens from the start of the prompt, where that is not the
    same for all requests of a server.

    The hash is a cryptographic one, so that nobody can make a prompt that meets the cache of another.
    """
    tokens = memoryview(array("q", prompt_ids)).cast("B")
    size = 8 * BLOCK_SIZE
    keys: list[bytes] = []
    key = blake2b(beside, digest_size=32).digest()
    for start in range(0, len(tokens) - size + 1, size):
        key = blake2b(key + tokens[start : start + size], digest_size=32).digest()
        keys.append(key)
    return keys

"""Names for the blocks of a prompt: equal names mean equal tokens from the start of the prompt to the block's end."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from hashlib import blake2b

from tgi_server.types import BLOCK_SIZE


def block_keys(prompt_ids: Sequence[int]) -> list[bytes]:
    """One key for each block that the prompt fills, chained: each covers the key before it and 16 tokens.

    The hash is a cryptographic one, so that nobody can make a prompt that meets the cache of another.
    """
    keys: list[bytes] = []
    key = b""
    for start in range(0, len(prompt_ids) - BLOCK_SIZE + 1, BLOCK_SIZE):
        key = blake2b(key + array("q", prompt_ids[start : start + BLOCK_SIZE]).tobytes(), digest_size=32).digest()
        keys.append(key)
    return keys

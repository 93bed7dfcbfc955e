"""What each token adds to a text, where a tokenizer's decoder works token by token.

Those of all families that are served do: byte-level vocabularies (GPT-2's kind), SentencePiece's with bytes for what no
piece covers (Llama 2, Gemma) and without (T5). Whole texts are then joined of pieces without the decoder, which costs
less, and loses nothing to what it knows only of whole texts: it takes a run of byte tokens with one wrong byte for
nothing but wrong bytes, and a space at the beginning for none of the text.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from tokenizers import Tokenizer

Step = Mapping[str, Any]
_ALL = 1 << 30


class Pieces(dict[int, str | bytes]):
    """The piece of each token, made when it is first asked for: bytes where it is not made of whole characters.

    Attributes:
        stripped: how many spaces are no part of a text that begins with them.
    """

    def __init__(self, tokenizer: Tokenizer, steps: Sequence[Step]) -> None:
        super().__init__()
        self._tokenizer = tokenizer
        self._added = tokenizer.get_added_tokens_decoder()
        kinds = {step["type"] for step in steps}
        self._replaced = [pair for step in steps for pair in _replacement(step)]
        self._maps_bytes, self._names_bytes = "ByteLevel" in kinds, "ByteFallback" in kinds
        self.stripped = max(map(_stripped, steps))

    def __missing__(self, id: int) -> str | bytes:
        token = self._tokenizer.id_to_token(id) or ""  # a model may have more ids than its tokenizer
        piece: str | bytes = self._piece(token)
        if isinstance(piece, bytes):
            try:
                piece = piece.decode()
            except UnicodeDecodeError:
                if id in self._added:  # it stands for itself; what looked like bytes are letters
                    piece = token
        self[id] = piece
        return piece

    def _piece(self, token: str) -> str | bytes:
        for old, new in self._replaced:
            token = token.replace(old, new)
        if self._names_bytes and (byte := _named(token)) is not None:
            return byte
        if self._maps_bytes and all(letter in _BYTES for letter in token):
            return bytes(_BYTES[letter] for letter in token)
        return token


def pieces(tokenizer: Tokenizer) -> Pieces | None:
    """The pieces of a vocabulary; None where they depend on what stands around them, or nothing is known of that."""
    if tokenizer.decoder is None:
        return None
    state: Step = json.loads(tokenizer.decoder.__getstate__())
    steps = state["decoders"] if state["type"] == "Sequence" else [state]
    return (
        Pieces(tokenizer, steps)
        if tuple(step["type"] for step in steps) in _KNOWN and all(map(_simple, steps))
        else None
    )


_KNOWN = {
    ("ByteLevel",), ("Metaspace",), ("Replace", "ByteFallback", "Fuse"), ("Replace", "ByteFallback", "Fuse", "Strip"),
}  # fmt: skip


def _simple(step: Step) -> bool:
    """Whether a step does no more than what is made use of here."""
    if step["type"] == "Replace":
        return "String" in step["pattern"]
    return step["type"] != "Strip" or (step["content"], step["start"], step["stop"]) == (" ", 1, 0)


def _replacement(step: Step) -> list[tuple[str, str]]:
    if step["type"] == "Replace":
        return [(step["pattern"]["String"], step["content"])]
    return [(step["replacement"], " ")] if step["type"] == "Metaspace" else []


def _stripped(step: Step) -> int:
    """Metaspace leaves none of the first token's spaces."""
    if step["type"] == "Metaspace":
        return 0 if step["prepend_scheme"] == "never" else _ALL
    return int(step["start"]) if step["type"] == "Strip" else 0


def _named(token: str) -> bytes | None:
    """The byte that a token such as <0x0A> stands for."""
    if len(token) != 6 or not (token.startswith("<0x") and token.endswith(">")):
        return None
    try:
        return bytes([int(token[3:5], 16)])
    except ValueError:
        return None


def _byte_letters() -> dict[str, int]:
    """GPT-2's letters for bytes: the printable ones of Latin-1 for themselves, those from U+0100 on for the others."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(0x100) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + n): byte for n, byte in enumerate(others)}


_BYTES = _byte_letters()

"""SentencePiece's BPE in GGUF: `tokenizer.ggml.model` llama. A score a token takes the place of merges."""

from __future__ import annotations

import math

from gguf import Keys, TokenType
from tokenizers import Tokenizer, decoders, models, normalizers

from tgi_server.errors import ModelError
from tgi_server.launcher.gguf.reader import GgufFile

_SPACE = "▁"


def check(file: GgufFile) -> None:
    """Raise ModelError for scores that do not fit."""
    scores, tokens = file.required(Keys.Tokenizer.SCORES, list), file.strings(Keys.Tokenizer.LIST)
    if len(scores) != len(tokens):
        raise ModelError(f"{file.path}: {len(tokens)} tokens, but {len(scores)} scores")
    if not all(isinstance(score, float) and math.isfinite(score) for score in scores):
        raise ModelError(f"{file.path}: the metadata {Keys.Tokenizer.SCORES} should be finite numbers")


def model(file: GgufFile) -> Tokenizer:
    """The tokenizer, without the tokens that stand for themselves. What no token covers becomes tokens of bytes."""
    tokens = file.strings(Keys.Tokenizer.LIST)
    unknown = file.optional(Keys.Tokenizer.UNK_ID, int)
    vocabulary = {token: index for index, token in enumerate(tokens)}
    tokenizer = Tokenizer(
        models.BPE(
            vocab=vocabulary,
            merges=_merges(file, tokens),
            unk_token=tokens[unknown if unknown is not None and unknown < len(tokens) else 0],
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    prefixed = file.optional(Keys.Tokenizer.ADD_PREFIX, bool) is not False
    replace = normalizers.Replace(" ", _SPACE)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(_SPACE), replace]) if prefixed else replace
    steps = [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)] if prefixed else steps)
    return tokenizer


def _merges(file: GgufFile, tokens: list[str]) -> list[tuple[str, str]]:
    """All ways to make a token of two others, that of the highest score first."""
    scores, types = file.required(Keys.Tokenizer.SCORES, list), file.required(Keys.Tokenizer.TOKEN_TYPE, list)
    normal = [index for index, kind in enumerate(types) if kind == TokenType.NORMAL]
    pieces = {tokens[index] for index in normal}
    normal.sort(key=lambda index: -scores[index])
    return [
        (token[:cut], token[cut:])
        for token in (tokens[index] for index in normal)
        for cut in range(1, len(token))
        if token[:cut] in pieces and token[cut:] in pieces
    ]

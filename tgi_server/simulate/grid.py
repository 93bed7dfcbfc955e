"""Which steps are measured: those that a configuration can come to."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tgi_server.config.schema import BatchingOptions
from tgi_server.simulate.costs import Shape
from tgi_server.types import BLOCK_SIZE, CacheKind, ShardInfo

STEPS = 4
"""Steps in a row of sequences that decode; one that computes prompts is long enough by itself."""
_LONG = 1024
"""Positions of long texts, where texts may be that long."""
_MOST_ROWS = 512
"""Sequences beyond which steps are not measured: longer ones go on as those before."""
_FINE = 256
"""Prompt tokens up to which many sizes are measured; beyond, steps take so long that few are."""
_CHUNK = 128
"""Tokens of a chunk where prompts are not chunked."""
_PARTS = 4
"""Prompts among which the tokens of a step are divided, beside one prompt that has them all."""


@dataclass(frozen=True, slots=True)
class Piece:
    """The last `tokens` of a prompt, of which `cached` come before them and are computed already."""

    tokens: int
    cached: int = 0

    @property
    def pairs(self) -> int:
        """Of a token and a position that it sees."""
        return self.tokens * self.cached + self.tokens * (self.tokens + 1) // 2


@dataclass(frozen=True, slots=True)
class Scene:
    """Some steps that are alike.

    Attributes:
        pieces: of prompts, new ones in each step.
        rows: sequences that decode in every step.
        context: positions that each of these sees in the first step.
    """

    pieces: tuple[Piece, ...] = ()
    rows: int = 0
    context: int = 0

    @property
    def steps(self) -> int:
        """How many there are."""
        return 1 if self.pieces else STEPS

    def shape(self, step: int) -> Shape:
        """Of the step with this number, from 0 on."""
        return Shape(
            prompt_tokens=sum(piece.tokens for piece in self.pieces),
            pairs=sum(piece.pairs for piece in self.pieces),
            rows=self.rows,
            context=self.rows * (self.context + step),
            ends=len(self.pieces),
        )


def scenes(options: BatchingOptions, info: ShardInfo) -> list[Scene]:
    """Prompts come first: they write what the others find in the cache."""
    found = [*_prompts(options, info), *_decoding(options, info), *_mixed(options, info)]
    return list(dict.fromkeys(found))


def most_rows(options: BatchingOptions, info: ShardInfo) -> int:
    """Sequences that may run at a time, as far as they are measured."""
    blocks = min(group.num_blocks for group in info.groups)
    return min(options.max_concurrent_requests, options.max_batch_size or _MOST_ROWS, _MOST_ROWS, blocks)


def most_prompt_tokens(options: BatchingOptions, info: ShardInfo) -> int:
    """Prompt tokens that a step may compute."""
    whole = max(options.max_batch_prefill_tokens, options.prefill_chunk_tokens or 0)
    return min(whole, info.efficient_tokens + options.max_input_length, _cache(info))


def contexts(options: BatchingOptions, info: ShardInfo) -> list[int]:
    """Positions of which all but one fill blocks: few, some and many, as far as texts may be that long."""
    longest = min(options.max_total_tokens, _cache(info)) - STEPS - 2
    wanted = (BLOCK_SIZE, _LONG // 4, _LONG)
    blocks = sorted({min(length, longest - 1) // BLOCK_SIZE for length in wanted})
    return [1 + BLOCK_SIZE * count for count in blocks] if skips(info) else [1 + BLOCK_SIZE * blocks[0]]


def skips(info: ShardInfo) -> bool:
    """Whether positions can be said to be computed already: states are those of one position only."""
    return all(group.kind in (CacheKind.FULL, CacheKind.WINDOW) for group in info.groups)


def _cache(info: ShardInfo) -> int:
    paged = [group.num_blocks for group in info.groups if group.kind is not CacheKind.STATE]
    return BLOCK_SIZE * min(paged, default=1 << 20)


def _prompts(options: BatchingOptions, info: ShardInfo) -> Iterator[Scene]:
    most, longest = most_prompt_tokens(options, info), _longest_prompt(options)
    sizes = [size for size in _sizes(BLOCK_SIZE, most) if size <= _FINE or size == most or size.bit_count() == 1]
    for tokens in sizes:
        yield Scene(_divided(tokens, -(-tokens // longest)))
    for tokens in sizes[len(sizes) // 2 :: 2]:
        yield Scene(_divided(tokens, -(-_PARTS * tokens // longest) if tokens > longest else _PARTS))
    cached = _blocks(min(_LONG, longest) // 2)
    if cached and skips(info):  # behind a beginning that the cache has
        for tokens in sorted({min(size, most, longest - cached) for size in (BLOCK_SIZE, 64, 256)}):
            yield Scene((Piece(tokens, cached),))


def _decoding(options: BatchingOptions, info: ShardInfo) -> Iterator[Scene]:
    lengths = contexts(options, info)
    rows = list(_sizes(1, most_rows(options, info)))
    for number, count in enumerate(rows):
        yield Scene(rows=count, context=lengths[0] + 1)
        if number % 3 == 0 or count == rows[-1]:
            yield from (Scene(rows=count, context=length + 1) for length in lengths[1:])


def _mixed(options: BatchingOptions, info: ShardInfo) -> Iterator[Scene]:
    """A chunk beside those who decode: measured always, as what is found holds for chunks of any size, and none."""
    chunk, lengths = options.prefill_chunk_tokens or _CHUNK, contexts(options, info)
    chunk = min(chunk, _longest_prompt(options))
    behind = _blocks(min(_longest_prompt(options) - chunk, _LONG // 2)) if skips(info) else 0
    most = most_rows(options, info)
    for rows in sorted({min(count, most) for count in (1, 4, 16)}):
        for tokens in sorted({BLOCK_SIZE, chunk // 2, chunk}):
            yield Scene((Piece(tokens),), rows, lengths[0] + 1)
        yield Scene((Piece(chunk, behind),), rows, lengths[len(lengths) // 2] + 1)


def _longest_prompt(options: BatchingOptions) -> int:
    return min(options.max_input_length, options.max_total_tokens - 2)


def _divided(tokens: int, count: int) -> tuple[Piece, ...]:
    return tuple(Piece(tokens // count + (number < tokens % count)) for number in range(count))


def _sizes(first: int, last: int) -> Iterator[int]:
    """1, 2, 3, 4, 6, 8, 12 ... times the first one, and the last one."""
    size = first
    while size < last:
        yield size
        if size > first and size * 3 // 2 < last:
            yield size * 3 // 2
        size *= 2
    yield last


def _blocks(positions: int) -> int:
    """As many of them as fill whole blocks."""
    return max(0, positions) // BLOCK_SIZE * BLOCK_SIZE

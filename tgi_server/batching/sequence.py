"""One request as the scheduler sees it."""

from __future__ import annotations

from collections.abc import Sequence as Items
from dataclasses import dataclass, field

from tgi_server.errors import TgiError
from tgi_server.types import BLOCK_SIZE, FinishReason, GenerationRequest, NewSequence, TopTokens


@dataclass(slots=True, eq=False)
class Sequence:
    """A request from its arrival to its last token. Times are seconds on the caller's clock.

    It was `received` by the server before it `arrived` here; None if nobody asked for it. Its newest tokens came at
    `last_token`; the scheduler knows of neither.
    Of its request `input_length` are the prompt tokens, `max_new_tokens` the most that may be generated.
    `prompt_left` counts the prompt tokens that no step is planned for, `pending` the planned steps of which a new token
    is yet to come, `committed` the tokens whose value is known. A step brings one token at least: how many more than
    that is known when they are committed.

    `needed` is the most blocks of each group of layers that it holds at a time, `blocks` its block tables, `own` the
    blocks that it holds now. `prefix` names the blocks that its prompt fills, as far as they may be shared; the first
    `kept` of them can be found by others. The first `cached` positions were found in such blocks.
    """

    id: int
    request: GenerationRequest
    arrived: float = 0.0
    started: float | None = None
    ended: float | None = None
    received: float | None = None
    last_token: float | None = None
    needed: list[int] = field(default_factory=list)
    blocks: list[list[int]] = field(default_factory=list)
    own: list[list[int]] = field(default_factory=list)
    prefix: list[bytes] = field(default_factory=list)
    kept: int = 0
    cached: int = 0
    input_length: int = field(init=False)
    max_new_tokens: int = field(init=False)
    prompt_left: int = field(init=False)
    pending: int = 0
    committed: int = 0

    def __post_init__(self) -> None:
        self.input_length = self.prompt_left = len(self.request.prompt_ids)
        self.max_new_tokens = self.request.stopping.max_new_tokens

    @property
    def sharable(self) -> Items[bytes]:
        """Names of the blocks that it may find: its last token is always computed, for the logits."""
        return self.prefix[: (self.input_length - 1) // BLOCK_SIZE]

    @property
    def fully_planned(self) -> bool:
        """No further step is needed, even if no end of sequence comes and the planned ones bring one token each."""
        return self.committed + self.pending >= self.max_new_tokens

    def advance(self, count: int) -> int:
        """Plan its next `count` positions; returns how many of them belong to the prompt."""
        of_prompt = count if self.prompt_left else 0
        self.prompt_left -= of_prompt
        if not self.prompt_left:
            self.pending += 1
        return of_prompt

    def announcement(self) -> NewSequence:
        """What the shards have to know before its first step."""
        request = self.request
        length = self.input_length + self.max_new_tokens
        return NewSequence(self.id, request.prompt_ids, self.blocks, request.sampling, length, self.cached)


@dataclass(slots=True)
class Progress:
    """What one step brought one sequence. `failure` is why the sequence ended without a last token."""

    sequence: Sequence
    tokens: Items[int]
    logprobs: Items[float]
    top_tokens: Items[TopTokens]
    finish: FinishReason | None = None
    failure: TgiError | None = None

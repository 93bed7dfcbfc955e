"""The vocabulary shared by router, engine, scheduler and shards. Stdlib only; plain data, no behaviour.

Ids of sequences are integers that a server never uses twice. All token ids are vocabulary indices.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

BLOCK_SIZE = 16
"""Token positions in one block of the paged KV cache."""


class CacheKind(str, Enum):
    """What a group of layers remembers of a sequence."""

    FULL = "full"
    """Keys and values of every position."""
    WINDOW = "window"
    """Keys and values of the last positions; blocks before them are given back."""
    STATE = "state"
    """A state of fixed size: one slot (recurrent layers)."""
    ENCODER = "encoder"
    """Keys and values of the encoder's output, as many as the prompt has."""


class FinishReason(str, Enum):
    """Why a generation ended, under TGI's names."""

    LENGTH = "length"
    EOS_TOKEN = "eos_token"
    """The model ended it, or nothing but that could have followed the last token that there was room for."""
    STOP_SEQUENCE = "stop_sequence"


@dataclass(frozen=True, slots=True)
class Guide:
    """What a generated text has to match: a grammar as llguidance reads it, within at most `max_tokens` tokens.

    `close` are tokens that end a part at the beginning that would else go on for ever, such as thoughts.
    """

    grammar: str
    max_tokens: int
    close: tuple[int, ...] = ()


GUIDE_LIMITS: dict[str, Any] = {"initial_lexer_fuel": 500_000, "step_lexer_fuel": 100_000}
"""What a grammar may cost, in llguidance's units: for the worst ones a third of a second until they are given up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """How one sequence picks its next token. The defaults switch every step off, which is greedy decoding.

    `prompt_top_tokens` alternatives are told for each prompt token, with `prompt_logprobs` only. `logit_bias` is added
    to the scores of its token ids.
    """

    do_sample: bool = False
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    typical_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    logit_bias: dict[int, float] = field(default_factory=dict)
    seed: int = 0
    top_n_tokens: int = 0
    prompt_logprobs: bool = False
    prompt_top_tokens: int = 0
    watermark: bool = False
    guide: Guide | None = None

    @property
    def samples(self) -> bool:
        """True when the choice is random: asked for, or implied by any of the warping parameters."""
        return self.do_sample or self.temperature != 1.0 or self.top_k != 0 or self.top_p < 1.0 or self.typical_p < 1.0


@dataclass(frozen=True, slots=True)
class Mark:
    """What begins something other than content within a text, such as a call of a function.

    `special` marks are special tokens, which no other text stands for; `first` ones count at the beginning only.
    """

    text: str
    special: bool = False
    first: bool = False


@dataclass(frozen=True, slots=True)
class Reasoning:
    """How a text marks what is thought before its content: `begin`, the thoughts, `end`; all of it may be left out.

    Marks may hold special tokens. A text without thoughts may begin with `direct`. Of `begun` ones the prompt holds
    `begin` already.
    """

    begin: str
    end: str
    direct: str = ""
    begun: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class StoppingParams:
    """When one sequence ends."""

    max_new_tokens: int
    stop_sequences: tuple[str, ...] = ()
    ignore_eos: bool = False
    keep_stop: bool = True
    """Leave the matched stop sequence in the text (native API) or cut it off (OpenAI API); decision D10."""
    content_until: Mark | None = None
    """Stop sequences are looked for before this mark only, of which they are no part; None for everywhere."""
    reasoning: Reasoning | None = None
    """Stop sequences are not looked for in what is thought before the content; None for texts without such."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationRequest:
    """A request that passed validation."""

    prompt_ids: Sequence[int]
    sampling: SamplingParams
    stopping: StoppingParams
    echo: bool = False
    """The prompt's tokens are told as what they add to the text, not each by itself."""


@dataclass(frozen=True, slots=True)
class NewSequence:
    """A sequence the shard does not know yet, with the cache blocks of its whole life.

    `blocks` holds a table of physical block numbers for each group of layers (`ShardInfo.groups`), in position order:
    position p lives in `blocks[group][p // BLOCK_SIZE]`. Where a window lets blocks be used again, they repeat. A group
    of states has one number, the slot; one of encoder outputs has blocks for the positions of the prompt.
    Where an encoder reads the prompt, all other groups have positions of the decoder's text only: the token that begins
    it, and what is generated. The sequence has at most `max_length` positions, prompt and generated. The first `cached`
    positions of the prompt, whole blocks of it, are in the cache already and are not computed.
    """

    id: int
    prompt_ids: Sequence[int]
    blocks: list[list[int]]
    sampling: SamplingParams
    max_length: int
    cached: int = 0


@dataclass(frozen=True, slots=True)
class Plan:
    """One step of work, the same message to every rank.

    `ids[i]` gets `counts[i]` new positions; those of a prompt that an encoder reads come all at once. A sequence whose
    known tokens are all computed after this step yields a token; a prompt chunk that is not the last one yields none.
    `finished` ids are forgotten before the step.

    Of a sequence that computes the last token it generated, shards may guess up to `draft` tokens that follow, compute
    them in the same step, and yield one token more for each that turns out right. Plans count on one token a step, so a
    plan may name a sequence that already has all its tokens; it yields none.
    """

    step: int
    ids: list[int]
    counts: list[int]
    new: list[NewSequence] = field(default_factory=list)
    finished: list[int] = field(default_factory=list)
    draft: int = 0


@dataclass(frozen=True, slots=True)
class TopTokens:
    """The most likely alternatives at one position, sorted by falling log-probability."""

    ids: list[int]
    logprobs: list[float]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a step produced, in the order of the plan's `ids`.

    `counts[i]` tokens belong to `ids[i]` (0 for an unfinished prompt); `tokens` and `logprobs` are their
    concatenation, `top_tokens[id]` has an entry for each token of `id`. The dictionaries are keyed by sequence id and
    hold only those who asked or failed; in `unguided` are those that failed because their own grammar turned out to be
    too much. `complete` are those whose grammar lets nothing follow the last token that they may have.
    `guessed[id]` is how many tokens were guessed of `id`, if any.
    `prompt_logprobs[id][j]` is the raw log-probability of prompt token j + 1 given the ones before it,
    `prompt_top_tokens[id][j]` what else could have stood there.
    `repeated` says why the step failed at first, and was tried again in parts; None for one that did not.
    `forward_ns` is the time the device worked on the step, `wait_ns` the time it waited for this plan since the step
    before (0 for the first).
    """

    step: int
    ids: list[int]
    counts: list[int]
    tokens: list[int]
    logprobs: list[float]
    top_tokens: dict[int, list[TopTokens]] = field(default_factory=dict)
    prompt_logprobs: dict[int, list[float]] = field(default_factory=dict)
    prompt_top_tokens: dict[int, list[TopTokens]] = field(default_factory=dict)
    failed: dict[int, str] = field(default_factory=dict)
    unguided: dict[int, str] = field(default_factory=dict)
    complete: list[int] = field(default_factory=list)
    guessed: dict[int, int] = field(default_factory=dict)
    repeated: str | None = None
    forward_ns: int = 0
    wait_ns: int = 0


PROGRESS = "Progress: "
"""Begins a line on a shard's standard error that tells how much of its model is loaded, from 0 to 1."""

SETTLED = "Settled: "
"""Begins a line on a shard's standard error that tells options it has found numbers for, as JSON: lengths that fit."""

SIGN = "Alive"
"""A line on a child's standard error that tells that it works, or waits for work."""

HANGS = "Hangs: "
"""Begins a line that tells why part of it is believed to hang."""

LEAVES = "Leaves"
"""A line on a child's standard error that tells that it is about to end, and gives no more signs."""

UNSETTLED = 3
"""Exit status of a router that was stopped in order while a shard still worked on a step."""


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a rank lives.

    `device` is the number of its accelerator among those of its `node`. `address` is what a router calls it by:
    `unix:PATH` on the router's own node, `host:port` on others.
    """

    rank: int
    node: int
    device: int
    address: str

    @property
    def name(self) -> str:
        """How logs and errors call it."""
        return f"shard {self.rank}" if self.node == 0 else f"shard {self.rank} (node {self.node}, {self.address})"


@dataclass(frozen=True, slots=True)
class GroupInfo:
    """The cache of a group of layers whose past is held alike: `num_blocks` blocks, or slots of a group of states.

    `window` is that of WINDOW groups: the positions that a query sees, its own included.
    """

    kind: CacheKind
    window: int | None
    num_blocks: int


@dataclass(frozen=True, slots=True)
class ShardInfo:
    """What a shard tells once its model is loaded and warmed up.

    `efficient_tokens` are the new positions that fill a step: a larger step takes no less time a position. `unguided`
    says why texts of this model cannot follow grammars, if they cannot. `draft_width` is the most tokens that a shard
    may guess for a sequence in a step. Without `prefix_cacheable`, equal tokens from the start of a prompt do not mean
    equal keys and values. `start_token_id` begins the texts of a decoder whose encoder reads the prompts; None where
    texts continue the prompt.
    """

    dtype: str
    device_type: str
    groups: list[GroupInfo]
    efficient_tokens: int
    vocab_size: int
    eos_token_ids: list[int]
    unguided: str | None = None
    draft_width: int = 0
    prefix_cacheable: bool = True
    start_token_id: int | None = None

    def cache_tokens(self, longest: int) -> int:
        """Positions that the cache holds: of the layers that keep them all, or of the first group if none does.

        Where layers keep states only, those of one text of `longest` tokens for each.
        """
        full = [group for group in self.groups if group.kind is CacheKind.FULL]
        told = (full or self.groups)[0]
        return told.num_blocks * (longest if told.kind is CacheKind.STATE else BLOCK_SIZE)


@dataclass(frozen=True, slots=True)
class Token:
    """One token as a client sees it. `logprob` is None where the model gave none (first prompt token)."""

    id: int
    text: str
    logprob: float | None
    special: bool = False


@dataclass(frozen=True, slots=True)
class Finish:
    """The end of a generation: `text` is the whole generated text, `seed` is None for greedy decoding.

    `stop_sequence` is the one that ended it, if one did.
    """

    reason: FinishReason
    text: str
    generated_tokens: int
    seed: int | None
    stop_sequence: str | None = None


@dataclass(frozen=True, slots=True)
class TokenEvent:
    """One token of a generation as soon as it may be shown, or one of its prompt.

    `token.text` is the text this token adds: empty while a character is incomplete, cut where a stop sequence
    ends. Events whose text may still become a stop sequence are held back until that is decided, so the texts of
    the non-special tokens always join to the generated text. `finish` is set on the last event only.
    """

    token: Token
    top_tokens: list[Token] = field(default_factory=list)
    finish: Finish | None = None

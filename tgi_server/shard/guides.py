"""Grammars that generated texts have to match: which tokens may come next, computed while the device works on the step.

The automaton is llguidance's. What is added is the end of the budget: a text that has to match is worth nothing cut
off, so a token after which it could no longer be ended in time is replaced by the first one of an ending.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from llguidance import LLMatcher, LLParserLimits, LLTokenizer
from torch import Tensor

from tgi_server.shard.ending import LONGEST, Bits, Ending, unpacked
from tgi_server.types import GUIDE_LIMITS, Guide, Plan


class Vocabulary:
    """A model's tokens as llguidance knows them. Raises ValueError for a tokenizer that it cannot read."""

    def __init__(self, tokenizer_json: Path, size: int, eos_token_ids: Sequence[int]) -> None:
        text = tokenizer_json.read_text(encoding="utf-8")
        self._limits = LLParserLimits(verbose_errors=False, **GUIDE_LIMITS)
        self.tokenizer = LLTokenizer(text, n_vocab=size, eos_token=list(eos_token_ids) or None)
        self.eos = frozenset(eos_token_ids)
        self.size = size
        texts = [self.tokenizer.decode_bytes([id]) for id in range(size)]
        self.ending = Ending(texts, self.tokenizer.eos_token)
        self.first_ending = lru_cache(maxsize=64)(self._first_ending)
        """The ending of a text that has not begun, by its grammar: the same for all choices of a request."""

    def matcher(self, grammar: str) -> LLMatcher:
        """An automaton at its beginning; raises nothing, errors are asked for."""
        return LLMatcher(self.tokenizer, grammar, log_level=0, limits=self._limits)

    def _first_ending(self, grammar: str) -> list[int] | None:
        return self.ending.find(self.matcher(grammar))


class GuidedSequence:
    """How far one text has got in its grammar.

    From where an ending could be too long for what is left, one that is short enough is always kept, as far as any is
    found; a token that leaves none is not taken.

    Attributes:
        failure: why it cannot go on; None while it can.
    """

    def __init__(self, vocabulary: Vocabulary, guide: Guide) -> None:
        self._vocabulary = vocabulary
        self._guide = guide
        self._matcher = vocabulary.matcher(guide.grammar)
        self._left = guide.max_tokens
        self._ending: list[int] | None = None
        self._look_at = LONGEST + 1  # tokens left at which to look for the ending next, while there is none
        self._over = False
        self.failure: str | None = None
        self._note_failure()

    def allowed(self) -> Bits | None:
        """Which tokens may come next; None when any may, because nothing counts any more."""
        if self._over or self.failure is not None:
            return None
        if self._ending is None and self._left <= self._look_at:
            self._look_at = self._left // 2
            self._keep(self._found())
        mask = self._matcher.compute_bitmask()
        self._note_failure()
        return unpacked(mask, self._vocabulary.size)

    def take(self, token: int) -> int:
        """Go on with `token`, or with the one that is returned where `token` would leave no time to end."""
        if self._over or self.failure is not None:
            return token
        if self._ending is not None and token not in self._vocabulary.eos:
            token = self._tried(token, self._ending)
        self._left -= 1
        if token in self._vocabulary.eos:
            self._over = True
        else:
            self._matcher.consume_token(token)
            self._note_failure()
        return token

    def _found(self) -> list[int] | None:
        """An ending of the text so far."""
        if self._left == self._guide.max_tokens:
            return self._vocabulary.first_ending(self._guide.grammar)
        return self._vocabulary.ending.find(self._matcher)

    def _tried(self, token: int, ending: list[int]) -> int:
        if token != ending[0]:
            after = self._matcher.deep_copy()
            after.consume_token(token)
            if len(ending) <= self._left and self._vocabulary.ending.fits(after, ending):
                return token  # as most are: part of a text in quotes
            if self._keep(self._vocabulary.ending.find(after), 1):
                return token
        self._ending = ending[1:]
        return ending[0]

    def _keep(self, ending: list[int] | None, used: int = 0) -> bool:
        """Keep an ending that what is left is enough for, after `used` tokens more; its last token need not come."""
        if ending is None or len(ending) - 1 > self._left - used:
            return False
        self._ending = ending
        return True

    def _note_failure(self) -> None:
        if self._matcher.is_error():
            reason = self._matcher.get_error().removesuffix("<non-verbose/>").strip()
            self.failure = f"the grammar cannot be followed any further: {reason}"


class Guides:
    """All guided sequences of a shard.

    One thread makes automatons and masks, beside the device's work on the step; at the start it reads the vocabulary.
    """

    def __init__(self, tokenizer_json: Path, vocab_size: int, eos_token_ids: Sequence[int]) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="guides")
        self._vocabulary = self._thread.submit(Vocabulary, tokenizer_json, vocab_size, eos_token_ids)
        self._sequences: dict[int, Future[GuidedSequence]] = {}

    def unsupported(self) -> str | None:
        """Why texts of this model cannot be guided, None if they can; waits until that is known."""
        error = self._vocabulary.exception()
        return None if error is None else f"llguidance cannot use the tokenizer: {error}"

    def update(self, plan: Plan) -> None:
        """Forget the plan's finished sequences, and begin with those of its new ones that have a guide."""
        for id in plan.finished:
            self._sequences.pop(id, None)
        for new in plan.new:
            if guide := new.sampling.guide:
                self._sequences[new.id] = self._thread.submit(self._start, guide)

    def allowed(self, ids: Sequence[int], device: torch.device) -> Future[dict[int, Tensor]] | None:
        """Begin to find out which tokens the sequences `ids` may have: bool `[vocabulary]` by index in `ids`.

        None when all may have any.
        """
        guided = {index: self._sequences[id] for index, id in enumerate(ids) if id in self._sequences}
        return self._thread.submit(_masks, guided, device) if guided else None

    def take(self, ids: Sequence[int], tokens: Sequence[int]) -> dict[int, int]:
        """Go on with the tokens that were picked; the indices in `ids` that get another one, and which."""
        replaced = {}
        for index, (id, picked) in enumerate(zip(ids, tokens, strict=True)):
            if id in self._sequences:
                token = self._sequences[id].result().take(picked)
                if token != picked:
                    replaced[index] = token
        return replaced

    def failures(self, ids: Sequence[int]) -> dict[int, str]:
        """Which of the sequences `ids` cannot go on, and why."""
        reasons = {id: self._sequences[id].result().failure for id in ids if id in self._sequences}
        return {id: reason for id, reason in reasons.items() if reason is not None}

    def _start(self, guide: Guide) -> GuidedSequence:
        return GuidedSequence(self._vocabulary.result(), guide)


def _masks(guided: Mapping[int, Future[GuidedSequence]], device: torch.device) -> dict[int, Tensor]:
    """All masks first, then one transfer: a GPU would make each wait for the step that it works on."""
    masks = {index: mask for index, future in guided.items() if (mask := future.result().allowed()) is not None}
    if not masks:
        return {}
    stacked = torch.from_numpy(np.stack(list(masks.values())))
    if device.type == "cuda":
        stacked = stacked.pin_memory().to(device, non_blocking=True)
    return dict(zip(masks, stacked, strict=True))

"""Grammars that generated texts have to match: which tokens may come next, computed while the device works on the step.

The automaton is llguidance's. What is added is the end of the budget: a text that has to match is worth nothing cut
off, so a token after which it could no longer be ended in time is replaced by the first one of the ending.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tgi_server.shard.ending import Ending
from tgi_server.types import GUIDE_LIMITS, Guide, Plan

Bits = npt.NDArray[np.bool_]

CLOSE = 32
"""Tokens to spare below which every token is tried before it is taken; above, an ending is looked for now and then."""


class Vocabulary:
    """A model's tokens as llguidance knows them. Raises ValueError for a tokenizer that it cannot read."""

    def __init__(self, tokenizer_json: Path, size: int, eos_token_ids: Sequence[int]) -> None:
        import llguidance  # here it is done by the thread that makes masks

        text = tokenizer_json.read_text(encoding="utf-8")
        self._library: Any = llguidance
        self._limits = llguidance.LLParserLimits(verbose_errors=False, **GUIDE_LIMITS)
        self.tokenizer = llguidance.LLTokenizer(text, n_vocab=size, eos_token=list(eos_token_ids) or None)
        self.eos = frozenset(eos_token_ids)
        self.size = size
        texts = [self.tokenizer.decode_bytes([id]) for id in range(size)]
        self.ending = Ending(texts, self.tokenizer.eos_token)

    def matcher(self, grammar: str) -> Any:
        """An automaton at its beginning; raises nothing, errors are asked for."""
        return self._library.LLMatcher(self.tokenizer, grammar, log_level=0, limits=self._limits)


class GuidedSequence:
    """How far one text has got in its grammar.

    Attributes:
        failure: why it cannot go on; None while it can.
    """

    def __init__(self, vocabulary: Vocabulary, guide: Guide) -> None:
        self._vocabulary = vocabulary
        self._matcher = vocabulary.matcher(guide.grammar)
        self._left = guide.max_tokens
        self._look_at = guide.max_tokens
        self._ending: list[int] | None = None
        """What would end the text now; None while nobody needs to know, or where none was found."""
        self._over = False
        self.failure: str | None = None
        self._note_failure()

    def allowed(self) -> Bits | None:
        """Which tokens may come next; None when any may, because nothing counts any more."""
        if self._over or self.failure is not None:
            return None
        if self._ending is None and self._left <= self._look_at:
            self._look_ahead()
        mask = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        self._note_failure()
        return np.unpackbits(mask, count=self._vocabulary.size, bitorder="little").view(np.bool_)

    def take(self, token: int) -> int:
        """Go on with `token`, or with the one that is returned where `token` would leave no time to end."""
        if self._over or self.failure is not None:
            return token
        if self._ending is not None and self._left - len(self._ending) < CLOSE:
            token = self._tried(token, self._ending)
        else:
            self._ending = None
        self._left -= 1
        if token in self._vocabulary.eos:
            self._over = True
        else:
            self._matcher.consume_token(token)
            self._note_failure()
        return token

    def _tried(self, token: int, ending: list[int]) -> int:
        if token in self._vocabulary.eos:
            return token
        if token != ending[0]:
            after = self._matcher.deep_copy()
            after.consume_token(token)
            if len(ending) <= self._left and self._vocabulary.ending.fits(after, ending):
                return token  # most are part of a text in quotes
            self._ending = self._vocabulary.ending.find(after, self._left - 1)
            if self._ending is not None:
                return token
        self._ending = ending[1:]
        return ending[0]

    def _look_ahead(self) -> None:
        """Find the ending, and say when to look again: when half of the tokens to spare are used."""
        self._ending = self._vocabulary.ending.find(self._matcher, self._left)
        spare = self._left - len(self._ending or ())
        self._look_at = self._left - max(1, min(spare // 2, spare - CLOSE))

    def _note_failure(self) -> None:
        if self._matcher.is_error():
            self.failure = f"the text cannot go on within its grammar: {self._matcher.get_error()}"


class Guides:
    """All guided sequences of a shard.

    One thread makes automatons and masks, beside the device's work on the step; at the start it reads the vocabulary.
    """

    def __init__(self, tokenizer_json: Path, vocab_size: int, eos_token_ids: Sequence[int]) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="guides")
        self._vocabulary = self._thread.submit(Vocabulary, tokenizer_json, vocab_size, eos_token_ids)
        self._sequences: dict[int, Future[GuidedSequence]] = {}

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
        guided = [(index, self._sequences[id]) for index, id in enumerate(ids) if id in self._sequences]
        return self._thread.submit(_masks, guided, device) if guided else None

    def take(self, ids: Sequence[int], tokens: Sequence[int]) -> dict[int, int]:
        """Go on with the tokens that were picked; the indices in `ids` that get another one, and which."""
        replaced = {}
        for index, (id, picked) in enumerate(zip(ids, tokens, strict=True)):
            if sequence := self._sequence(id):
                token = sequence.take(picked)
                if token != picked:
                    replaced[index] = token
        return replaced

    def failures(self, ids: Sequence[int]) -> dict[int, str]:
        """Which of the sequences `ids` cannot go on, and why."""
        failed = {}
        for id in ids:
            if (sequence := self._sequence(id)) and sequence.failure is not None:
                failed[id] = sequence.failure
            elif (future := self._sequences.get(id)) and (error := future.exception()):
                failed[id] = f"texts of this model cannot be guided: {error}"
        return failed

    def _sequence(self, id: int) -> GuidedSequence | None:
        """The guided sequence `id`; None where it has no guide, or none that works."""
        future = self._sequences.get(id)
        return None if future is None or future.exception() else future.result()

    def _start(self, guide: Guide) -> GuidedSequence:
        return GuidedSequence(self._vocabulary.result(), guide)


def _masks(guided: list[tuple[int, Future[GuidedSequence]]], device: torch.device) -> dict[int, Tensor]:
    masks = {}
    for index, future in guided:
        if not future.exception() and (allowed := future.result().allowed()) is not None:
            masks[index] = torch.from_numpy(allowed).to(device)
    return masks

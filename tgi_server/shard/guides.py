"""All guided sequences of a shard, of which a defect of one is no failure of the others."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from tgi_server.kernels.sampling import Masks
from tgi_server.shard.failures import Complaints
from tgi_server.shard.guided import GuidedSequence, Vocabulary
from tgi_server.speculate.base import Drafts
from tgi_server.types import Guide, Plan

T = TypeVar("T")

log = logging.getLogger(__name__)


class Guarded:
    """Does what a `GuidedSequence` does, and raises nothing: a defect of one grammar is no other text's failure."""

    def __init__(self, make: Callable[[], GuidedSequence], complaints: Complaints) -> None:
        self._complaints = complaints
        self._defect: str | None = None
        self._sequence: GuidedSequence | None = None
        try:
            self._sequence = make()
        except Exception as error:
            self._note(error)

    @property
    def failure(self) -> str | None:
        """Why it cannot go on; None while it can."""
        return self._defect or (self._sequence.failure if self._sequence else None)

    def masks(self, drafts: Sequence[int]) -> list[bytes]:
        """See `GuidedSequence.masks`."""
        return self._guarded(lambda sequence: sequence.masks(drafts), [])

    def reach(self, drafts: Sequence[int]) -> int:
        """See `GuidedSequence.reach`."""
        return self._guarded(lambda sequence: sequence.reach(drafts), 0)

    def follow(self, tokens: Sequence[int], drafts: Sequence[int]) -> list[int]:
        """See `GuidedSequence.follow`."""
        return self._guarded(lambda sequence: sequence.follow(tokens, drafts), [*tokens[:1]])

    @property
    def complete(self) -> bool:
        """See `GuidedSequence.complete`."""
        return self._guarded(lambda sequence: sequence.complete, False)

    def _guarded(self, call: Callable[[GuidedSequence], T], otherwise: T) -> T:
        if self._sequence is not None and self._defect is None:
            try:
                return call(self._sequence)
            except Exception as error:
                self._note(error)
        return otherwise

    def _note(self, error: Exception) -> None:
        self._defect = f"the grammar cannot be followed any further: {type(error).__name__}"
        self._complaints.error("a guide failed", type(error).__name__, error)


class Guides:
    """All guided sequences of a shard.

    One thread makes automatons and masks, beside the device's work on the step; at the start it reads the vocabulary.
    """

    def __init__(self, tokenizer_json: Path, vocab_size: int, eos_token_ids: Sequence[int]) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="guides")
        self._vocabulary = self._thread.submit(Vocabulary, tokenizer_json, vocab_size, eos_token_ids)
        self._sequences: dict[int, Future[Guarded]] = {}
        self._complaints = Complaints(log)

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

    def allowed(
        self, ids: Sequence[int], device: torch.device, drafts: Drafts | None = None
    ) -> Future[Masks | None] | None:
        """Begin to find out which tokens the sequences `ids` may have, and which after each of their drafts.

        Every sequence has a row, and one more for each draft; those that may have any token, or that follow a draft
        which may not come, have no mask. None when there is nothing to find out, or no mask at all.
        """
        guided, row = dict[int, tuple[Future[Guarded], Sequence[int]]](), 0
        for id in ids:
            guesses = drafts.get(id, ()) if drafts else ()
            if id in self._sequences:
                guided[row] = self._sequences[id], guesses
            row += 1 + len(guesses)
        return self._thread.submit(_masks, guided, device) if guided else None

    def cut(self, drafts: Drafts) -> Drafts:
        """The drafts that the grammars allow."""
        reach = {id: self._sequences[id].result().reach(drafts[id]) for id in drafts if id in self._sequences}
        cut = {id: tokens[: reach.get(id, len(tokens))] for id, tokens in drafts.items()}
        return {id: tokens for id, tokens in cut.items() if tokens}

    def follow(self, id: int, tokens: Sequence[int], drafts: Sequence[int]) -> list[int] | None:
        """Go on with the tokens that were picked, see `GuidedSequence.follow`; None for a sequence without a guide."""
        sequence = self._sequences.get(id)
        return sequence.result().follow(tokens, drafts) if sequence else None

    def failures(self, ids: Sequence[int]) -> dict[int, str]:
        """Which of the sequences `ids` cannot go on, and why."""
        reasons = {id: self._sequences[id].result().failure for id in ids if id in self._sequences}
        return {id: reason for id, reason in reasons.items() if reason is not None}

    def complete(self, ids: Sequence[int]) -> list[int]:
        """Which of the sequences `ids` have all their tokens and a whole text, see `GuidedSequence.complete`."""
        return [id for id in ids if id in self._sequences and self._sequences[id].result().complete]

    def _start(self, guide: Guide) -> Guarded:
        return Guarded(lambda: GuidedSequence(self._vocabulary.result(), guide), self._complaints)


def _masks(guided: Mapping[int, tuple[Future[Guarded], Sequence[int]]], device: torch.device) -> Masks | None:
    """All masks first, then one transfer: a GPU would make each wait for the step that it works on."""
    masks = {
        row + offset: mask
        for row, (sequence, drafts) in guided.items()
        for offset, mask in enumerate(sequence.result().masks(drafts))
    }
    if not masks:
        return None
    words = torch.frombuffer(bytearray().join(masks.values()), dtype=torch.int32).view(len(masks), -1)
    if device.type == "cuda":
        words = words.pin_memory().to(device, non_blocking=True)
    return Masks(np.array([*masks]), words)

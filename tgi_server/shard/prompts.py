"""Log-probabilities of prompt tokens, for those who asked: collected until the whole prompt is computed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from tgi_server.shard.batch import BatchState, StepInputs
from tgi_server.shard.sampler import top_of_rows
from tgi_server.types import Plan, TopTokens

ROWS = 128
"""Rows of prompt logits held at a time: a row is the whole vocabulary in float32."""


@dataclass(slots=True)
class Scores:
    """Of prompt tokens in order, the first one left out; `top` stays empty where no alternatives are asked for."""

    logprobs: list[float] = field(default_factory=list)
    top: list[TopTokens] = field(default_factory=list)


class PromptScores:
    """The scores of all prompts that are being computed.

    Args:
        state: the sequences that the shard knows.
        logits: hidden states `[rows, hidden]` to logits `[rows, vocabulary]`, or None on a rank that has none.
    """

    def __init__(self, state: BatchState, logits: Callable[[Tensor], Tensor | None]) -> None:
        self._state = state
        self._logits = logits
        self._collected: dict[int, Scores] = {}

    def forget(self, id: int) -> None:
        """Drop what was collected for a sequence that is over."""
        self._collected.pop(id, None)

    def collect(self, plan: Plan, inputs: StepInputs, hidden: Tensor) -> dict[int, Scores]:
        """Take in a step, before the state has advanced; the scores of the prompts that it completes."""
        done = {}
        for index, id in enumerate(plan.ids):
            sampling = self._state.sampling(id)
            if not sampling.prompt_logprobs or self._state.computed(id) >= self._state.prompt_length(id):
                continue
            start = inputs.starts[index]
            rows = hidden[start : start + plan.counts[index]]
            scores = self._collected.setdefault(id, Scores())
            self._score(rows, self._following(plan, index), sampling.prompt_top_tokens, scores)
            if index in inputs.yielding:
                done[id] = self._collected.pop(id)
        return done

    def _following(self, plan: Plan, index: int) -> list[int]:
        """The known tokens that follow each of the plan's positions of its sequence `index`."""
        id = plan.ids[index]
        first = self._state.computed(id) + 1
        following: list[int] = self._state.known(id)[first : first + plan.counts[index]].tolist()
        return following

    def _score(self, hidden: Tensor, tokens: list[int], top: int, scores: Scores) -> None:
        for start in range(0, len(tokens), ROWS):
            part = tokens[start : start + ROWS]
            logits = self._logits(hidden[start : start + len(part)])
            if logits is not None:
                logprobs = logits.log_softmax(dim=-1)
                chosen = torch.tensor(part, device=logits.device).unsqueeze(1)
                scores.logprobs += logprobs.gather(1, chosen).squeeze(1).tolist()
                if top:
                    scores.top += top_of_rows(logprobs, top)

"""What becomes of a step that failed: who may be tried again without whom, and whether the shard can go on at all."""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch

from tgi_server.layers.parallel import Group
from tgi_server.shard.batch import BatchState
from tgi_server.telemetry.seldom import Seldom
from tgi_server.types import Outcome, Plan


class UndecidedError(Exception):
    """Rank 0, which decides for all, could not."""

    def __init__(self) -> None:
        super().__init__("rank 0 failed when it chose tokens")


def settle(error: Exception, group: Group, device: torch.device, place: str) -> None:
    """Let steps go on after one that failed with `error`; raises it, or what is worse, when they cannot.

    A device that has failed for good fails here again. Several ranks go on only if all have failed at the same place:
    those that have not wait for the others within the step, for ever.
    """
    _let_go(error)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.empty_cache()
    if not group.agree(place):
        raise error


def _let_go(error: BaseException) -> None:
    """Free what the failed step had computed, which its traceback holds, for those that come after it."""
    chain: BaseException | None = error
    while chain is not None:
        traceback.clear_frames(chain.__traceback__)
        chain = chain.__cause__ or chain.__context__


def parts(plan: Plan, state: BatchState) -> list[Plan]:
    """The same step in smaller ones: all texts that are written, then each prompt by itself.

    Also where that is the same once more, as there is more memory now. Empty where layers remember in states that the
    failed step may have changed.
    """
    if not state.repeatable:
        return []
    counts = dict(zip(plan.ids, plan.counts, strict=True))
    written, prompts, new = list[int](), list[int](), {new.id for new in plan.new}
    for id in plan.ids:
        (written if state.computed(id) >= state.prompt_length(id) else prompts).append(id)
    prompts.sort(key=new.__contains__)  # those that begin may share what the others compute
    groups = [written] * bool(written) + [[id] for id in prompts]
    return [_part(plan, ids, counts) for ids in groups]


def halves(plan: Plan) -> list[Plan]:
    """A part in two smaller ones; none of a single sequence."""
    counts, middle = dict(zip(plan.ids, plan.counts, strict=True)), len(plan.ids) // 2
    return [_part(plan, ids, counts) for ids in (plan.ids[:middle], plan.ids[middle:])] if middle else []


def _part(plan: Plan, ids: list[int], counts: Mapping[int, int]) -> Plan:
    """Of some sequences; without guesses, which only make a step larger."""
    return Plan(plan.step, ids, [counts[id] for id in ids])


def failed(plan: Plan, error: Exception) -> Outcome:
    """Blame a whole step. Its sequences stay known: a plan that is under way may still name them."""
    return Outcome(plan.step, plan.ids, [0] * len(plan.ids), [], [], failed=dict.fromkeys(plan.ids, reason(error)))


def reason(error: Exception) -> str:
    """What failed, for those who asked."""
    return f"{type(error).__name__}: {error}"


def joined(plan: Plan, outcomes: Sequence[Outcome]) -> Outcome:
    """The outcome of a step from those of its parts, in any order."""
    counts, tokens, logprobs = dict[int, int](), dict[int, list[int]](), dict[int, list[float]]()
    whole = replace(outcomes[0], ids=plan.ids, unguided={}, complete=[])
    for outcome in outcomes:
        start = 0
        for id, count in zip(outcome.ids, outcome.counts, strict=True):
            counts[id], stop = count, start + count
            tokens[id], logprobs[id] = outcome.tokens[start:stop], outcome.logprobs[start:stop]
            start = stop
        whole.unguided.update(outcome.unguided)
        whole.complete.extend(outcome.complete)
    return replace(
        whole,
        counts=[counts[id] for id in plan.ids],
        tokens=[token for id in plan.ids for token in tokens[id]],
        logprobs=[logprob for id in plan.ids for logprob in logprobs[id]],
        top_tokens={id: top for outcome in outcomes for id, top in outcome.top_tokens.items()},
        prompt_logprobs={id: prompt for outcome in outcomes for id, prompt in outcome.prompt_logprobs.items()},
        prompt_top_tokens={id: top for outcome in outcomes for id, top in outcome.prompt_top_tokens.items()},
        failed={id: message for outcome in outcomes for id, message in outcome.failed.items()},
    )


class Complaints:
    """Logs why steps failed; the traceback of the same reason not more often than once a minute."""

    def __init__(self, log: logging.Logger, clock: Callable[[], float] = time.monotonic) -> None:
        self._log = log
        self._tracebacks = Seldom(clock)

    def error(self, what: str, why: str, error: Exception) -> None:
        """Log it."""
        if self._tracebacks.due(why):
            self._log.error("%s", what, exc_info=error)
        else:
            self._log.error("%s again: %s", what, why)

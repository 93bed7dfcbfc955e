"""Looks whether a loaded module may be run on tokens of many texts at once: attention must be all that mixes them.

Tokens that see only themselves have to give the same queries, keys, values and scores in company and alone. What keeps
a state, shifts tokens, or counts positions itself, does not.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from tgi_server.errors import ModelError
from tgi_server.models.model import Inputs

IDS, POSITIONS = (3, 1, 4, 2), (9, 2, 14, 6)
TOLERANCE = 0.15
"""Of the norm: far more than rounding does, far less than another token or position."""

Alone = Callable[[], AbstractContextManager[list[Tensor]]]


class Runs(Protocol):
    """What is looked at: a `FallbackModel`."""

    def begin(self, ids: Tensor, positions: Tensor, lengths: Any, limits: Any) -> Inputs:
        """See `models.model.Model`."""
        ...

    def hidden(self, inputs: Inputs) -> Tensor:
        """See `FallbackModel`."""
        ...

    def logits(self, hidden: Tensor) -> Tensor | None:
        """See `models.model.Model`."""
        ...


@dataclass(frozen=True, slots=True)
class Call:
    """A linear layer that was called, and with what."""

    name: str
    input: Tensor


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a whole module computed: linear layers it called, its output's class, and its numbers."""

    calls: list[Call]
    kind: type
    hidden: Tensor
    logits: Tensor


def evidence(module: Any, base: nn.Module, alone: Alone, device: torch.device) -> Evidence:
    """Run the module once as transformers made it."""
    calls: list[Call] = []
    outputs: list[Any] = []
    hooks = [
        part.register_forward_hook(lambda module, given, out, name=name: calls.append(Call(name, given[0])))
        for name, part in module.named_modules()
        if type(part) is nn.Linear
    ]
    hooks.append(base.register_forward_hook(lambda module, given, out: outputs.append(out)))
    ids, positions = _tokens(device)
    with alone():
        logits = module(input_ids=ids[None], position_ids=positions[None], use_cache=False).logits[0]
    for hook in hooks:
        hook.remove()
    return Evidence(calls, type(outputs[0]), outputs[0].last_hidden_state[0].float(), logits.float())


def check(model: Runs, alone: Alone, before: Evidence) -> None:
    """Raise ModelError unless the model agrees with the module it was made of, and with itself on one token."""
    ids, positions = _tokens(before.hidden.device)
    with alone() as together:
        hidden = model.hidden(model.begin(ids, positions, None, None))
    logits = model.logits(hidden)
    assert logits is not None
    if _differ(hidden, before.hidden) or _differ(logits, before.logits):
        raise ModelError("its scores do not follow from its hidden states, or its linear layers are more than that")
    with alone() as single:
        last = model.hidden(model.begin(ids[-1:], positions[-1:], None, None))
    rows, own = (torch.cat([part[-1] for part in parts]) for parts in (together, single))
    if _differ(own, rows) or _differ(last[0], hidden[-1]):
        raise ModelError("its layers mix tokens, or count positions, elsewhere than in attention")


def _tokens(device: torch.device) -> tuple[Tensor, Tensor]:
    return torch.tensor(IDS, device=device), torch.tensor(POSITIONS, device=device)


def _differ(x: Tensor, y: Tensor) -> bool:
    x, y = x.float(), y.float()
    return not bool((x - y).norm() <= TOLERANCE * y.norm())

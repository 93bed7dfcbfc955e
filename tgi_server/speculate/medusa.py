"""Medusa heads (arXiv:2401.10774): small layers beside the model's own head that guess the tokens after the next one
from the same hidden state."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import silu

from tgi_server.kernels.formats import Int8, rounded
from tgi_server.kernels.plain import LinearOp
from tgi_server.kernels.row import Needs
from tgi_server.layers.parallel import Group
from tgi_server.models import medusa
from tgi_server.models.checkpoint import Checkpoint
from tgi_server.models.head import Headed
from tgi_server.models.model import Model
from tgi_server.models.spec import Source
from tgi_server.models.weights import WeightLoader
from tgi_server.quantize.base import WHOLE, Cut, Stored
from tgi_server.rope.table import IntArray
from tgi_server.speculate.base import Surroundings

USUAL = 0.5
"""Chance of a guess of which nothing is known."""
QUICK, SLOW, SLOWEST = 0.1, 0.01, 0.001
"""How far one guess moves what is expected of the next in its own text, and in all. Where there was none, the former
moves by the second towards the latter, and that by the third back to the beginning: so that heads are tried again."""

Vote = Callable[[Sequence[Tensor]], Tensor]
"""Of hidden states `[rows, hidden]` as each head's layers have changed them, the best tokens one after the other
(int64), the same on every rank."""


class EightBits:
    """Reads projections: guesses change no text, and what they cost is the bytes that are read."""

    weight_bytes: ClassVar[float | None] = 1.0

    def stored(self) -> Mapping[str, Stored]:
        """See `Reader`."""
        return {"weight": Stored(exact=True)}

    def read(self, tensors: Mapping[str, Tensor], cut: Cut = WHOLE) -> Int8:
        """See `Reader`."""
        return rounded(tensors["weight"])


def load(surroundings: Surroundings, directory: Path, most: int | None = None) -> Medusa:
    """The heads in a directory, for a model that is loaded.

    Args:
        surroundings: the model, whose own head is theirs where they have none.
        directory: see `models.medusa.read`.
        most: how many of the heads to use, the first ones; all by default.

    Raises:
        ModelError: they are damaged, or not for this model.
    """
    group, needs, spec = surroundings.group, surroundings.needs, surroundings.spec
    heads = medusa.read(directory, spec)
    loader = WeightLoader(Checkpoint(directory, infos=heads.tensors), ("",), EightBits(), group, needs)
    numbers = range(heads.count if most is None else min(most, heads.count))
    layers = [[_layer(loader, heads.layer(n, m)) for m in range(heads.layers)] for n in numbers]
    rows = group.span(spec.vocab_size)
    if not heads.shared:
        own = [loader.column([Source(heads.projection(n), spec.vocab_size)], [rows]) for n in numbers]
        return Medusa(layers, Ballot(partial(_each, own), rows[0], group), spec.hidden_size, needs)
    head = surroundings.model.head.rows() if isinstance(surroundings.model, Headed) else None
    if head is None:
        return Medusa(layers, ModelVote(surroundings.model, group), spec.hidden_size, needs)
    coarse = loader.built(
        replace(head, read=lambda first, last: rounded(head.read(first, last).widened(torch.float32)))
    )
    return Medusa(layers, Ballot(partial(_together, coarse), rows[0], group), spec.hidden_size, needs)


def _each(projections: Sequence[LinearOp], hidden: Sequence[Tensor]) -> Tensor:
    """Each head's scores by a projection of its own."""
    scores = [product(x) for product, x in zip(projections, hidden, strict=False)]
    return scores[0] if len(scores) == 1 else torch.cat(scores)


def _together(projection: LinearOp, hidden: Sequence[Tensor]) -> Tensor:
    """The same where all heads share one, whose weights are read once."""
    return projection(torch.cat([*hidden]))


def _layer(loader: WeightLoader, name: str) -> LinearOp:
    """Whole on every rank: next to the projection it is nothing."""
    return loader.dense(loader.matrix(f"{name}.weight"), loader.matrix(f"{name}.bias"))


class Medusa:
    """See `Drafter`.

    Args:
        layers: of each head.
        vote: what the heads say then.
        width: of a hidden state.
        needs: what is computed on.
    """

    def __init__(self, layers: Sequence[Sequence[LinearOp]], vote: Vote, width: int, needs: Needs) -> None:
        self._layers = layers
        self._vote = vote
        self._width, self._needs = width, needs
        self._states = States(width, needs)
        self._chances = Chances(len(layers))
        self._guessed: dict[int, list[int]] = {}

    def chances(self, id: int, known: IntArray, most: int) -> Sequence[float]:
        """See `Drafter`. Nothing before the prompt has been read."""
        return self._chances.of(id)[:most] if id in self._states else []

    @torch.inference_mode()
    def guess(self, widths: Mapping[int, int]) -> dict[int, list[int]]:
        """See `Drafter`. Each head is asked about the texts that want its guess, all at once."""
        ids = sorted((id for id, width in widths.items() if width), key=widths.__getitem__, reverse=True)
        guessed: dict[int, list[int]] = {id: [] for id in widths}
        if ids:
            asked = [ids[: sum(widths[id] > n for id in ids)] for n in range(widths[ids[0]])]
            states = self._states.get(ids)
            answers = iter(self._vote([self._changed(n, states[: len(own)]) for n, own in enumerate(asked)]).tolist())
            for own in asked:
                for id in own:
                    guessed[id].append(next(answers))
        self._guessed = guessed  # what is left of a step that failed is not to be learnt from
        return guessed

    def _changed(self, head: int, x: Tensor) -> Tensor:
        for layer in self._layers[head]:
            x = x + silu(layer(x))
        return x

    def learn(self, id: int, taken: Sequence[int]) -> None:
        """See `Drafter`."""
        self._chances.learn(id, self._guessed.pop(id, ()), taken)

    @torch.inference_mode()
    def see(self, ids: Sequence[int], hidden: Tensor, rows: Sequence[int]) -> None:
        """See `Drafter`."""
        self._states.put(ids, hidden[list(rows)])

    def seconds(self, sequences: int) -> float:
        """See `Drafter`: with the guesses of all heads."""
        ids = range(-sequences, 0)
        hidden = torch.zeros(sequences, self._width, dtype=self._needs.dtype, device=self._needs.device)
        self.see(ids, hidden, range(sequences))
        begin = time.perf_counter()
        self.guess(dict.fromkeys(ids, len(self._layers)))
        taken = time.perf_counter() - begin
        for id in ids:
            self.forget(id)
        return taken

    def forget(self, id: int) -> None:
        """See `Drafter`."""
        self._states.forget(id)
        self._chances.forget(id)
        self._guessed.pop(id, None)


class ModelVote:
    """By the scores of the model itself, all of its head."""

    def __init__(self, model: Model, group: Group) -> None:
        self._model = model
        self._group = group

    def __call__(self, hidden: Sequence[Tensor]) -> Tensor:
        """See `Vote`."""
        logits = self._model.logits(torch.cat([*hidden]))
        if logits is None:
            return self._group.broadcast(hidden[0].new_empty(sum(map(len, hidden)), dtype=torch.int64))
        return self._group.broadcast(logits.argmax(dim=-1))


class Ballot:
    """By projections of which each rank has a part of the rows.

    Args:
        scores: hidden states, as `Vote` has them, to `[rows, this rank's part of the vocabulary]`.
        first: where that part begins.
        group: the ranks.
    """

    def __init__(self, scores: Callable[[Sequence[Tensor]], Tensor], first: int, group: Group) -> None:
        self._scores = scores
        self._first = first
        self._group = group

    def __call__(self, hidden: Sequence[Tensor]) -> Tensor:
        """See `Vote`."""
        values, ids = self._scores(hidden).max(dim=-1)
        if self._group.world == 1:
            return ids
        return unranked(self._group.maxima(ranked(values, ids + self._first)))


_TOP = (1 << 31) - 1


def ranked(scores: Tensor, ids: Tensor) -> Tensor:
    """Whole numbers of 64 bits that are ordered by score, where these are equal by id, lower ones first."""
    bits = scores.float().view(torch.int32).long()
    return (bits.where(bits >= 0, bits ^ _TOP) << 32) + (_TOP - ids)


def unranked(numbers: Tensor) -> Tensor:
    """The ids in what `ranked` gave."""
    return _TOP - (numbers & _TOP)


class Chances:
    """How often each head's guess was right, where those before it were: in a text of late, and in all.

    Args:
        count: heads.
    """

    def __init__(self, count: int) -> None:
        self._all = [USUAL] * count
        self._own: dict[int, list[float]] = {}

    def of(self, id: int) -> list[float]:
        """What is expected of a text."""
        return self._own.setdefault(id, [*self._all])

    def learn(self, id: int, guessed: Sequence[int], taken: Sequence[int]) -> None:
        """What was guessed, and what came instead. Behind a wrong guess there is nothing to learn."""
        own, known = self.of(id), 0
        for n, (guess, token) in enumerate(zip(guessed, taken, strict=False)):
            right, known = float(guess == token), n + 1
            own[n] += QUICK * (right - own[n])
            self._all[n] += SLOW * (right - self._all[n])
            if not right:
                break
        for n in range(known, len(own)):
            own[n] += SLOW * (self._all[n] - own[n])
            self._all[n] += SLOWEST * (USUAL - self._all[n])

    def forget(self, id: int) -> None:
        """It is over."""
        self._own.pop(id, None)


class States:
    """The last hidden state of each sequence, in one tensor that grows with their number."""

    def __init__(self, width: int, needs: Needs) -> None:
        self._rows = torch.empty(1, width, dtype=needs.dtype, device=needs.device)
        self._row_of: dict[int, int] = {}
        self._free = [0]

    def __contains__(self, id: object) -> bool:
        return id in self._row_of

    def put(self, ids: Sequence[int], hidden: Tensor) -> None:
        """Those of some sequences, `[len(ids), width]`, in place of what there was of them."""
        new = [id for id in ids if id not in self._row_of]
        if len(new) > len(self._free):
            size = len(self._rows)
            self._rows = torch.cat([self._rows, self._rows.new_zeros(size + len(new), self._rows.shape[1])])
            self._free += range(size, len(self._rows))
        for id in new:
            self._row_of[id] = self._free.pop()
        self._rows[self._places(ids)] = hidden

    def get(self, ids: Sequence[int]) -> Tensor:
        """Those of some sequences, `[len(ids), width]`."""
        return self._rows[self._places(ids)]

    def forget(self, id: int) -> None:
        """It is over."""
        if (row := self._row_of.pop(id, None)) is not None:
            self._free.append(row)

    def _places(self, ids: Sequence[int]) -> Tensor:
        return torch.tensor([self._row_of[id] for id in ids], device=self._rows.device)

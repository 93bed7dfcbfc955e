"""Runs transformers' own module on a step: attention over the paged cache, linear layers by the kernel table."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tgi_server.kernels.attention import AttentionBatch, LayerCache
from tgi_server.kernels.table import Choice
from tgi_server.models.fallback import proof
from tgi_server.models.fallback.attention import PagedAttention
from tgi_server.models.fallback.modules import Source, inner
from tgi_server.models.fallback.products import substitute
from tgi_server.models.fallback.spec import FallbackSpec
from tgi_server.models.fallback.weights import loaded
from tgi_server.models.model import Inputs
from tgi_server.models.weights import WeightLoader
from tgi_server.rope.table import IntArray

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Tokens(Inputs):
    """A step before anything is computed: int64 ids and positions `[1, tokens]`; nothing that could be recorded."""

    ids: Tensor
    positions: Tensor


class FallbackModel:
    """See `models.model.Model`.

    Args:
        spec: its description.
        load: gives the weights.
        max_positions: longest text it will see, which the module's own positions do not ask for.

    Raises ModelError when tensors are missing, or when the module mixes tokens elsewhere than in its attention.
    """

    recorder = None

    def __init__(self, spec: FallbackSpec, load: WeightLoader, max_positions: int) -> None:
        self.hidden_size = spec.hidden_size
        self._dtype = load.needs.dtype
        self._attention = PagedAttention(spec, load)
        self._module = loaded(Source(Path(spec.directory), spec.remote), spec, load, self._attention)
        base = inner(self._module)
        with torch.inference_mode():
            before = proof.evidence(self._module, base, self._attention.alone, load.needs.device)
            replaced = substitute(self._module, before.calls, load)
            self._base, self._head = base.forward, Given(before.kind)
            base.forward = self._head
            proof.check(self, self._attention.alone, before)
        self.choices: list[Choice] = load.choices
        log.info(
            "%s of %s, its attention and %d of its linear layers by our kernels",
            type(self._module).__name__, "the checkpoint's own code" if spec.remote else "transformers", replaced,
        )  # fmt: skip

    def begin(self, ids: Tensor, positions: Tensor, lengths: IntArray, limits: IntArray) -> Inputs:
        """See `Model`; the module embeds its tokens itself."""
        nothing = torch.empty(len(ids), 0, device=ids.device)
        return Tokens(nothing, (), ids.unsqueeze(0), positions.unsqueeze(0))

    def forward(self, inputs: Inputs, caches: Sequence[LayerCache], batches: Sequence[AttentionBatch]) -> Tensor:
        """See `Model`."""
        with self._attention.over(caches, batches):
            return self.hidden(inputs)

    def hidden(self, inputs: Inputs) -> Tensor:
        """The same, with whatever attention is set."""
        assert isinstance(inputs, Tokens)
        given = self._base(input_ids=inputs.ids, position_ids=inputs.positions, past_key_values=None, use_cache=False)
        hidden: Tensor = given.last_hidden_state[0]
        return hidden.to(self._dtype)

    def logits(self, hidden: Tensor) -> Tensor | None:
        """See `Model`: what the module makes of hidden states, scaled and bounded as it does."""
        self._head.hidden = hidden.unsqueeze(0)
        ids = torch.zeros(1, len(hidden), dtype=torch.int64, device=hidden.device)
        scores: Tensor = self._module(input_ids=ids, use_cache=False).logits[0]
        self._head.hidden = None
        return scores.float()


class Given:
    """Stands in for the `forward` that computes hidden states while the whole module scores some: it returns those."""

    def __init__(self, kind: Any) -> None:
        self._kind = kind
        self.hidden: Tensor | None = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """An output of the class that the module expects."""
        return self._kind(last_hidden_state=self.hidden)

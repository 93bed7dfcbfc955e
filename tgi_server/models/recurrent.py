"""Builds a model of recurrent layers from its description, and runs it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tgi_server.kernels.attention import AttentionBatch, LayerCache
from tgi_server.layers import spread
from tgi_server.models.blocks import NOTHING, Added, Stream, recorder_of
from tgi_server.models.decoder import Embedding
from tgi_server.models.head import OutputHead
from tgi_server.models.model import Inputs
from tgi_server.models.recurrent_spec import MixerSpec, RecurrentSpec
from tgi_server.models.weights import WeightLoader
from tgi_server.rope.table import IntArray


class Recurrent:
    """See `models.model.Model`.

    Args:
        spec: its description.
        load: gives this rank's weights.
        max_positions: longest text it will see.

    Attributes:
        choices: who computes its operations.
    """

    def __init__(self, spec: RecurrentSpec, load: WeightLoader, max_positions: int) -> None:
        self.hidden_size = spec.hidden_size
        self.head = OutputHead(spec, spec.head, load, spec.embedding.name)
        self._embedding = Embedding(spec.embedding, spec.vocab_size, load, max_positions, self.head.vectors)
        self._stream = Stream(load)
        self._norms = [load.norm(mixer.norm) for mixer in spec.mixers]
        self._mixers = [Mixer(spec, mixer, load) for mixer in spec.mixers]
        self._norm = load.norm(spec.norm)
        self.choices = load.choices
        self.recorder = recorder_of(self.choices, load.group)

    def begin(self, ids: Tensor, positions: Tensor, lengths: IntArray, limits: IntArray) -> Inputs:
        """See `Model`."""
        return Inputs(self._embedding(ids, positions), ())

    def forward(self, inputs: Inputs, caches: Sequence[LayerCache], batches: Sequence[AttentionBatch]) -> Tensor:
        """See `Model`."""
        added = NOTHING
        for mixer, norm, cache in zip(self._mixers, self._norms, caches, strict=True):
            added = Added(mixer(self._stream.read(inputs.residual, added, norm), cache, batches[0]))
        return self._stream.read(inputs.residual, added, self._norm)

    def logits(self, hidden: Tensor) -> Tensor | None:
        """See `Model`."""
        return self.head(hidden)


class Mixer:
    """One layer; of its channels each rank has a part. What makes time steps and states is never quantised."""

    def __init__(self, spec: RecurrentSpec, own: MixerSpec, load: WeightLoader) -> None:
        part = spread.features(spec.channels, load.group.rank, load.group.world)
        rank, dtype = spec.time_rank, load.needs.dtype
        self._group = load.group
        self._inputs = load.column((own.value, own.gate), (part, part))
        self._output = load.row(own.output, part)
        select = load.vector(f"{own.select}.weight", dtype=dtype)[:, slice(*part)]
        self._time_rank, self._select = (load.dense(rows.contiguous()) for rows in (select[:rank], select[rank:]))
        self._time = load.dense(load.matrix(f"{own.time}.weight", part))
        self._time_bias = load.vector(f"{own.time}.bias", [part])
        self._weight = load.vector(f"{own.convolution}.weight", [part]).squeeze(1).t().contiguous()
        self._bias = load.vector(f"{own.convolution}.bias", [part]) if own.convolution_bias else None
        self._rates = -torch.exp(load.vector(own.rates, [part])).t().contiguous()
        self._skip = load.vector(own.skip, [part])
        self._convolve, self._scan = load.best("convolve").run, load.best("scan").run

    def __call__(self, x: Tensor, cache: LayerCache, batch: AttentionBatch) -> Tensor:
        """Normed `[tokens, hidden]` to what the layer adds."""
        (before, states), reduce = cache.states, self._group.all_reduce
        projected = self._inputs(x)
        values = self._convolve(projected, batch, before, self._weight, self._bias)
        time, select = self._time(reduce(self._time_rank(values))), reduce(self._select(values))
        y = self._scan(
            values, time, select, projected, batch, states, self._rates, self._skip, self._time_bias
        )  # fmt: skip
        return reduce(self._output(y))

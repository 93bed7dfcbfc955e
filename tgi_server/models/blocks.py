"""What a decoder is built of: attention and MLP of one layer, from their descriptions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tgi_server.kernels.attention import Attend, Features, LayerCache
from tgi_server.kernels.operations import Activation, Angles, Norm
from tgi_server.kernels.row import Recorder
from tgi_server.kernels.table import Choice
from tgi_server.models.spec import AttentionSpec, BlockSpec, MlpSpec
from tgi_server.models.weights import WeightLoader


@dataclass(frozen=True, slots=True)
class LayerStep:
    """What a layer's attention needs of a step. `slots` are int64 `[tokens]`."""

    angles: Angles | None
    attend: Attend
    slots: Tensor
    cache: LayerCache


class AttentionBlock:
    """Queries, keys and values, their attention, and what reads it."""

    def __init__(self, spec: AttentionSpec, load: WeightLoader) -> None:
        group = load.group
        heads, kv = group.heads(spec.query.units, spec.key.units)
        widths = {"key_width": spec.key.width, "value_width": spec.value.width}
        self._group = group
        self._heads = heads[1] - heads[0]
        self._qkv = load.column((spec.query, spec.key, spec.value), (heads, kv, kv))
        self._output = load.row(spec.output, heads)
        self._rotate_store = load.best("rotate_store", **widths).run
        self._norms = [None if norm is None else load.norm(norm) for norm in (spec.query_norm, spec.key_norm)]
        self._features = Features(
            spec.scale, spec.window, spec.softcap,
            slopes=None if spec.slopes is None else torch.tensor(spec.slopes[slice(*heads)], device=load.needs.device),
            sinks=None if spec.sinks is None else load.vector(spec.sinks, [heads]),
            causal=spec.causal,
        )  # fmt: skip

    def __call__(self, x: Tensor, step: LayerStep) -> Tensor:
        """Normed `[tokens, hidden]` to what attention adds."""
        query, key, value = self._rotate_store(
            self._qkv(x), step.angles, step.slots, step.cache, self._heads, *self._norms
        )
        attended = step.attend(query, key, value, step.cache, self._features)
        return self._group.all_reduce(self._output(attended.view(len(x), -1)))


class MlpBlock:
    """The two or three layers of an MLP."""

    def __init__(self, spec: MlpSpec, load: WeightLoader) -> None:
        group = load.group
        inner = load.features(spec.up.units)
        sources = [spec.up] if spec.gate is None else [spec.gate, spec.up]
        self._group = group
        self._inputs = load.column(sources, [inner] * len(sources))
        self._down = load.row(spec.down, inner)
        self._gate = load.best("gate").run
        self._activation = Activation[spec.activation]
        self._gated = spec.gate is not None

    def __call__(self, x: Tensor) -> Tensor:
        """Normed `[tokens, hidden]` to what the MLP adds."""
        return self._group.all_reduce(self._down(self._gate(self._inputs(x), self._activation, self._gated)))


@dataclass(frozen=True, slots=True)
class Added:
    """What is still to be added to the residual stream: `x [tokens, hidden]`, normed by `post`, times `scale`."""

    x: Tensor | None
    post: Norm | None = None
    scale: float = 1.0


NOTHING = Added(None)


class Stream:
    """The residual stream's side of the layers: what they add and read goes through one operation."""

    def __init__(self, load: WeightLoader) -> None:
        self._add_norm = load.best("add_norm").run
        self._dtype = load.needs.dtype

    def read(self, residual: Tensor, added: Added, norm: Norm) -> Tensor:
        """Add to `residual [tokens, hidden]` in place; the norm of the sum, in the serving dtype."""
        normed: Tensor = self._add_norm(residual, added.x, norm, self._dtype, added.post, added.scale)
        return normed

    def add(self, residual: Tensor, added: Added) -> None:
        """Add to `residual [tokens, hidden]` in place."""
        self._add_norm(residual, added.x, None, self._dtype, added.post, added.scale)


class Block:
    """One layer. What it adds last is left to the next layer's norm, which adds and norms in one pass."""

    def __init__(self, spec: BlockSpec, stream: Stream, load: WeightLoader) -> None:
        norm = load.norm
        self._attention = AttentionBlock(spec.attention, load)
        self._mlp = MlpBlock(spec.mlp, load)
        self._attention_norm, self._mlp_norm = norm(spec.attention_norm), norm(spec.mlp_norm)
        self._posts = [None if post is None else norm(post) for post in (spec.attention_post, spec.mlp_post)]
        self._scale = spec.scale
        self._parallel = spec.parallel
        self._stream = stream

    def __call__(self, residual: Tensor, added: Added, step: LayerStep) -> Added:
        """Add what the layer before left to `residual [tokens, hidden]`; return what this one leaves."""
        stream = self._stream
        x = stream.read(residual, added, self._attention_norm)
        if self._parallel:
            y = stream.read(residual, NOTHING, self._mlp_norm)
            stream.add(residual, Added(self._attention(x, step), self._posts[0], self._scale))
        else:
            y = stream.read(residual, Added(self._attention(x, step), self._posts[0], self._scale), self._mlp_norm)
        return Added(self._mlp(y), self._posts[1], self._scale)


def recorder_of(choices: Sequence[Choice]) -> Recorder | None:
    """How all of these can be recorded together; None when they cannot."""
    recorders = {choice.recorder for choice in choices}
    return recorders.pop() if len(recorders) == 1 else None

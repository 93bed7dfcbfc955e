"""What a decoder is built of: attention and MLP of one layer, from their descriptions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor

from tgi_server.errors import ModelError
from tgi_server.kernels.attention import Attend, Features, LayerCache
from tgi_server.kernels.experts import Expert, ExpertsOp, Mixture
from tgi_server.kernels.operations import Activation, Angles, Clamp, Norm
from tgi_server.kernels.row import Recorder
from tgi_server.kernels.table import Choice
from tgi_server.layers import spread
from tgi_server.layers.parallel import Group
from tgi_server.layers.spread import Span
from tgi_server.models.spec import AttentionSpec, BlockSpec, ExpertsSpec, MlpSpec, RelativeSpec, Source
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
        self._norms = _head_norms(spec, load, heads, kv)
        self._measure = Measure(spec, load) if spec.normed_together else None
        self._features = features(spec, load)

    def __call__(self, x: Tensor, step: LayerStep) -> Tensor:
        """Normed `[tokens, hidden]` to what attention adds."""
        qkv = self._qkv(x)
        squares = None if self._measure is None else self._measure(qkv)
        query, key, value = self._rotate_store(
            qkv, step.angles, step.slots, step.cache, self._heads, *self._norms, squares
        )
        attended = step.attend(query, key, value, step.cache, self._features)
        return self._group.all_reduce(self._output(attended.view(len(x), -1)))


class Measure:
    """What norms of all heads together divide by: the ranks sum up what their own heads add."""

    def __init__(self, spec: AttentionSpec, load: WeightLoader) -> None:
        world, query, key = load.group.world, spec.query, spec.key
        heads, kv = load.group.heads(query.units, key.units)
        alike = sum(spread.heads(query.units, key.units, rank, world)[1] == kv for rank in range(world))
        self._sizes = (heads[1] - heads[0]) * query.width, (kv[1] - kv[0]) * key.width
        self._totals = query.size, key.size * alike  # ranks that share a key head each add a part of its squares
        self._mean_squares = load.best("mean_squares").run
        self._group = load.group

    def __call__(self, qkv: Tensor) -> Tensor:
        """Mean squares of all queries and of all keys of each token, float32 `[tokens, 2]`, of a rank's own heads."""
        return self._group.all_reduce(self._mean_squares(qkv, self._sizes, self._totals))


def _head_norms(spec: AttentionSpec, load: WeightLoader, heads: Span, kv: Span) -> list[Norm | None]:
    norms: list[Norm | None] = []
    for norm, (first, last), width in (
        (spec.query_norm, heads, spec.query.width),
        (spec.key_norm, kv, spec.key.width),
    ):
        part = (first * width, last * width) if spec.normed_together else None
        norms.append(None if norm is None else load.norm(norm, part))
    return norms


class CrossAttentionBlock:
    """Attention of a decoder's queries over keys and values of an encoder's output, which are computed once."""

    def __init__(self, spec: AttentionSpec, load: WeightLoader) -> None:
        group = load.group
        heads, kv = group.heads(spec.query.units, spec.key.units)
        widths = {"key_width": spec.key.width, "value_width": spec.value.width}
        self._group = group
        self._shape = heads[1] - heads[0], spec.query.width
        self._query = load.column((spec.query,), (heads,))
        self._kv = load.column((spec.key, spec.value), (kv, kv))
        self._output = load.row(spec.output, heads)
        self._store = load.best("rotate_store", **widths).run
        self._features = features(spec, load)

    def remember(self, encoded: Tensor, slots: Tensor, cache: LayerCache) -> None:
        """Put the keys and values of an encoder's output `[tokens, hidden]` in the cache."""
        self._store(self._kv(encoded), None, slots, cache, 0)

    def __call__(self, x: Tensor, step: LayerStep) -> Tensor:
        """Normed `[tokens, hidden]` to what attention adds."""
        query = self._query(x).view(len(x), *self._shape)
        attended = step.attend(query, query[:0], query[:0], step.cache, self._features)
        return self._group.all_reduce(self._output(attended.view(len(x), -1)))


class MlpBlock:
    """The two or three layers of an MLP, or this rank's part of them: the ranks' results are to be summed."""

    def __init__(self, spec: MlpSpec, load: WeightLoader) -> None:
        inner = load.features(spec.up.units)
        sources = _inputs(spec)
        self._inputs = load.column(sources, [inner] * len(sources))
        self._down = load.row(spec.down, inner)
        self._gate = load.best("gate").run
        self._how = _gating(spec)

    def __call__(self, x: Tensor) -> Tensor:
        """Normed `[tokens, hidden]` to what the MLP adds."""
        y: Tensor = self._down(self._gate(self._inputs(x), *self._how))
        return y


class ExpertsBlock:
    """A mixture of experts, and an MLP that all tokens take; a rank has its part of the inside of each."""

    def __init__(self, spec: ExpertsSpec, load: WeightLoader) -> None:
        scoring = [source for source in (spec.router, spec.shared_gate) if source is not None]
        scores = torch.cat([load.plain(source) for source in scoring])
        self._router = load.best("head", inputs=scores.shape[1]).run(scores)  # in float32, as close scores decide
        layers = (_expert(expert, load) for expert in spec.experts)
        first = next(layers)
        inputs = math.gcd(first.inputs.inputs, first.down.inputs)
        choice = load.best("experts", format=type(first.inputs), inputs=inputs)
        bias = load.vector(spec.router.tensor("bias")) if spec.router.bias else None
        mixture = Mixture(len(spec.experts), spec.chosen, *_gating(spec.experts[0]), over_all=spec.over_all)
        alike = (_like(first, own, each) for own, each in zip(layers, spec.experts[1:], strict=True))
        self._experts: ExpertsOp = choice.run(chain((first,), alike), mixture, bias, load.needs.dtype)
        self._shared = None if spec.shared is None else MlpBlock(spec.shared, load)

    def __call__(self, x: Tensor) -> Tensor:
        """Normed `[tokens, hidden]` to what the mixture adds."""
        return self._experts(x, self._router(x), None if self._shared is None else self._shared(x))


def _expert(spec: MlpSpec, load: WeightLoader) -> Expert:
    inner, sources = load.features(spec.up.units), _inputs(spec)
    inputs, inputs_bias = load.column_weight(sources, [inner] * len(sources))
    down, down_bias = load.row_weight(spec.down, inner)
    return Expert(inputs, down, inputs_bias, down_bias)


def _like(first: Expert, own: Expert, spec: MlpSpec) -> Expert:
    """An expert whose weights are kept like those of the first one; raises ModelError for another."""
    for usual, weight, source in ((first.inputs, own.inputs, spec.up), (first.down, own.down, spec.down)):
        if type(usual) is not type(weight):
            raise ModelError(
                f"layer {source.name}: its weights are {type(weight).__name__}, those of the first expert "
                f"{type(usual).__name__}; experts are served that are all quantised in one way, or not at all"
            )
    return own


def _inputs(spec: MlpSpec) -> list[Source]:
    return [spec.up] if spec.gate is None else [spec.gate, spec.up]


def _gating(spec: MlpSpec) -> tuple[Activation, bool, Clamp]:
    """What `operations.gate` takes."""
    return Activation[spec.activation], spec.gate is not None, Clamp(spec.slope, spec.limit, spec.offset)


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
        self._mlp = MlpBlock(spec.mlp, load) if isinstance(spec.mlp, MlpSpec) else ExpertsBlock(spec.mlp, load)
        self._group = load.group
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
        return Added(self._group.all_reduce(self._mlp(y)), self._posts[1], self._scale)


def features(spec: AttentionSpec, load: WeightLoader) -> Features:
    """How a rank's heads score."""
    heads, _ = load.group.heads(spec.query.units, spec.key.units)
    return Features(
        spec.scale, spec.window, spec.softcap,
        slopes=None if spec.slopes is None else torch.tensor(spec.slopes[slice(*heads)], device=load.needs.device),
        sinks=None if spec.sinks is None else load.vector(spec.sinks, [heads]),
        causal=spec.causal,
        biases=None if spec.relative is None else _biases(spec.relative, not spec.causal, load)[slice(*heads)],
    )  # fmt: skip


def _biases(spec: RelativeSpec, both: bool, load: WeightLoader) -> Tensor:
    """Float32 `[heads, 2 * reach + 1]`, of the distances from -reach to reach; keys before the query are at negative
    ones. Without `both` directions, later keys are not seen and have the bias of distance 0."""
    distances = torch.arange(-spec.reach, spec.reach + 1)
    buckets = spec.buckets // 2 if both else spec.buckets
    size, exact = (distances.abs() if both else (-distances).clamp(min=0)), buckets // 2
    ranged = (size / exact).log() / math.log(spec.reach / exact) * (buckets - exact)
    bucket = torch.where(size < exact, size, (exact + ranged.clamp(min=0).long()).clamp(max=buckets - 1))
    bucket += buckets * (both & (distances > 0))
    return load.vector(f"{spec.name}.weight")[bucket.to(load.needs.device)].t().contiguous()


def recorder_of(choices: Sequence[Choice], group: Group) -> Recorder | None:
    """How all of these can be recorded together; None when they cannot.

    The head runs outside of a recording. Sums over ranks that meet on the host cannot be part of one.
    """
    recorders = {choice.recorder for choice in choices if choice.operation != "head"}
    recorder = recorders.pop() if len(recorders) == 1 else None
    return recorder if group.world == 1 or recorder == "graphs" else None

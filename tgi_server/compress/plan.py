"""Which layers of a model are quantised, and what of a block reads the same numbers. Stdlib only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import gcd, inf

from tgi_server.compress.options import GROUP_SIZES, WHOLE, Method, QuantizeOptions
from tgi_server.models.description import Description
from tgi_server.models.spec import BlockSpec, MlpSpec, ModelSpec, NormSpec, Source


@dataclass(frozen=True, slots=True)
class Layer:
    """A matrix of the checkpoint, which may be several layers of the model side by side.

    Attributes:
        name: of its tensors, without `.weight` and prefix.
        outputs, inputs: its sizes.
        transposed: whether it is stored `[in, out]`.
    """

    name: str
    outputs: int
    inputs: int
    transposed: bool


@dataclass(frozen=True, slots=True)
class Channels:
    """Outputs of one layer that another one reads, so that a factor of theirs can move from one to the other.

    Attributes:
        writer: gives the channels, unit by unit.
        reader: takes them as inputs. Where it has more units, neighbours read the same one (grouped heads).
    """

    writer: Source
    reader: Source


@dataclass(frozen=True, slots=True)
class Site:
    """Layers of a block that read the same numbers.

    Attributes:
        layers: they share these inputs.
        inputs: how many numbers they read.
        before: where a factor of each number can be put, with nothing else changing; None where there is no such place.
    """

    layers: tuple[Layer, ...]
    inputs: int
    before: NormSpec | Channels | None

    @property
    def name(self) -> str:
        """That of its first layer."""
        return self.layers[0].name


def sites(block: BlockSpec, hidden: int) -> list[Site]:
    """The sites of a block, in the order in which it computes them."""
    attention, mlp = block.attention, block.mlp
    assert isinstance(mlp, MlpSpec)
    heads = _columns((attention.query, attention.key, attention.value), hidden)
    inner = _columns((mlp.up,) if mlp.gate is None else (mlp.gate, mlp.up), hidden)
    own, then = _norm(block.attention_norm), _norm(block.mlp_norm)
    output = Site((_row(attention.output, hidden),), attention.output.size, Channels(attention.value, attention.output))
    down = Site((_row(mlp.down, hidden),), mlp.down.size, Channels(mlp.up, mlp.down) if _passes(mlp) else None)
    if block.parallel and block.attention_norm == block.mlp_norm:
        return [Site((*heads, *inner), hidden, own), output, down]
    return [Site(heads, hidden, own), output, Site(inner, hidden, then), down]


def _columns(sources: Sequence[Source], hidden: int) -> tuple[Layer, ...]:
    """The matrices that these layers are in."""
    names = dict.fromkeys(source.name for source in sources)
    own = {name: [source for source in sources if source.name == name] for name in names}
    return tuple(
        Layer(name, sum(source.size for source in parts), hidden, parts[0].transposed) for name, parts in own.items()
    )


def _row(source: Source, hidden: int) -> Layer:
    assert source.pieces(0, source.units) == [(0, source.size)]  # inputs lie in the order in which they are given
    return Layer(source.name, hidden, source.size, source.transposed)


def _norm(norm: NormSpec) -> NormSpec | None:
    """A norm that has weights."""
    return norm if norm.weighted and norm.kind != "identity" else None


def _passes(mlp: MlpSpec) -> bool:
    """Whether what `down` reads grows with what `up` gives: a product with the gate, or ReLU."""
    if mlp.gate is None:
        return mlp.activation == "RELU"
    return mlp.limit == inf and mlp.offset == 0.0


def unfit(spec: Description) -> str | None:
    """Why a model cannot be quantised; None when it can."""
    if not isinstance(spec, ModelSpec):
        return "only decoders are quantised by this job, not models with an encoder or with states"
    if any(not isinstance(block.mlp, MlpSpec) for block in spec.blocks):
        return "models with experts are not quantised by this job: few experts see enough of a calibration text"
    return None


def problems(spec: ModelSpec, options: QuantizeOptions) -> Iterator[tuple[str, object, str]]:
    """What is wrong with the options for this model, as `options.problems` tells it."""
    layers = [layer for block in spec.blocks for site in sites(block, spec.hidden_size) for layer in site.layers]
    size = options.group_size
    if odd := next((layer for layer in layers if size != WHOLE and layer.inputs % size), None):
        works = [n for n in GROUP_SIZES if n == WHOLE or not any(layer.inputs % n for layer in layers)]
        reason = f"{odd.name} has {odd.inputs} inputs, which are no whole groups; "
        yield "group_size", size, f"{reason}{' and '.join(map(str, works))} work{'s' * (len(works) == 1)}"
    number = 32 // gcd(options.bits, 32)
    packed = ("outputs",) if options.method is Method.awq else ("outputs", "inputs")
    for layer in layers:
        if odd_ones := [kind for kind in packed if getattr(layer, kind) % number]:
            kind = odd_ones[0]
            reason = f"{layer.name} has {getattr(layer, kind)} {kind}, and {number} are kept together"
            yield "bits", options.bits, f"{reason}; this model cannot be packed so"
            return
    if spec.max_positions is not None and options.sample_tokens > spec.max_positions:
        most = spec.max_positions
        yield "sample_tokens", options.sample_tokens, f"the model was made for {most} positions; {most} works"

"""AWQ (arXiv:2306.00978): inputs that matter get larger weights, and so finer steps; what comes before them shrinks.

The weights that this gives are not rounded to the nearest, as its authors do, but as GPTQ does it, in the order in
which groups lie: the format is only a container, and outputs change less.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from tgi_server.compress import gptq
from tgi_server.compress.observe import Seen
from tgi_server.compress.plan import Channels, Site
from tgi_server.compress.rounding import Rounded, Steps
from tgi_server.models.spec import NormSpec, Source

_GRID = 20
"""Exponents that are tried."""
_LEAST = 1e-4
"""Of the mean size of an input: one that was never seen must not get endless weights."""


class Block:
    """The tensors of a block while factors move about in them.

    Args:
        weights: float32 `[out, in]` by the names of layers; they are changed in place.
        vector: gives a norm's weights or a bias by its name, float32.
        stored: the format in which a norm or a bias will be stored, by its name.

    Attributes:
        vectors: those that have changed.
    """

    def __init__(
        self, weights: Mapping[str, Tensor], vector: Callable[[str], Tensor], stored: Callable[[str], torch.dtype]
    ) -> None:
        self.weights = weights
        self.vectors: dict[str, Tensor] = {}
        self._vector = vector
        self._format = stored

    def scale(self, site: Site, factors: Tensor) -> Tensor:
        """Multiply a site's weights by `factors [in]`, and divide what comes before; the factors as they became."""
        if isinstance(site.before, NormSpec):
            factors = self._normed(site.before, factors)
        elif site.before is not None:
            self._written(site.before.writer, factors[first_readers(site.before).to(factors.device)])
        for layer in site.layers:
            self.weights[layer.name].mul_(factors)
        return factors

    def _normed(self, norm: NormSpec, factors: Tensor) -> Tensor:
        """A norm's stored weights have 16 bits; the factors that these bits mean leave the product as it was."""
        name = f"{norm.name}.weight"
        weight = self._get(name)
        stored = self._stored(name, (weight + norm.offset) / factors - norm.offset)
        meant, whole = stored + norm.offset, weight + norm.offset
        exact = (meant != 0) & (whole != 0)
        factors = torch.where(exact, whole / torch.where(exact, meant, 1), torch.ones_like(factors))
        self.vectors[name] = torch.where(exact, stored, weight)
        if norm.bias:
            name = f"{norm.name}.bias"
            self.vectors[name] = self._stored(name, self._get(name) / factors)
        return factors

    def _written(self, writer: Source, factors: Tensor) -> None:
        """Divide outputs of a layer, and their biases."""
        rows = torch.cat([torch.arange(*piece) for piece in writer.pieces(0, writer.units)]).to(factors.device)
        self.weights[writer.name][rows] /= factors.unsqueeze(1)
        if writer.bias:
            name = writer.tensor("bias")
            bias = self._get(name).clone()
            bias[rows] /= factors
            self.vectors[name] = self._stored(name, bias)

    def _stored(self, name: str, vector: Tensor) -> Tensor:
        """As it can be read again."""
        return vector.to(self._format(name)).float()

    def _get(self, name: str) -> Tensor:
        return self.vectors[name] if name in self.vectors else self._vector(name)


def readers(channels: Channels) -> Tensor:
    """Of each input of the reader, the output of the writer that it is."""
    writer, reader = channels.writer, channels.reader
    units = torch.arange(reader.units) * writer.units // reader.units
    return (units.unsqueeze(1) * writer.width + torch.arange(writer.width)).flatten()


def first_readers(channels: Channels) -> Tensor:
    """Of each output of the writer, the first input of the reader that it is."""
    writer, reader = channels.writer, channels.reader
    units = torch.arange(writer.units) * (reader.units // writer.units)
    return (units.unsqueeze(1) * writer.width + torch.arange(writer.width)).flatten()


def factors(site: Site, weights: Mapping[str, Tensor], seen: Seen, steps: Steps, size: int) -> Tensor:
    """The factors of a site's inputs, `[in]`, with which rounding changes the outputs least: a power of their sizes.

    Inputs that are one channel have one factor.
    """
    sizes = (seen.sizes / max(1, seen.rows)).clamp(min=_LEAST)
    if isinstance(site.before, Channels):
        which = readers(site.before).to(sizes.device)
        sums = torch.zeros(site.before.writer.size, device=sizes.device).index_add_(0, which, sizes)
        sizes = sums[which] * (site.before.writer.units / site.before.reader.units)
    least, best = torch.inf, torch.ones_like(sizes)
    for number in range(_GRID):
        tried = sizes ** (number / _GRID)
        tried = tried / (tried.max() * tried.min()).sqrt()
        error = 0.0
        for layer in site.layers:
            weight = weights[layer.name]
            grouped = (weight * tried).view(len(weight), -1, size)
            change = steps.seen(grouped, *steps.plain(grouped)).flatten(1).div_(tried).sub_(weight)
            error += float((change @ seen.hessian).mul_(change).sum())
        if error < least:
            least, best = error, tried
    return best


def rounded(
    sites: Sequence[Site], block: Block, seen: Mapping[str, Seen], steps: Steps, size: Callable[[int], int],
    damping: float, watch: Callable[[float], None] = lambda part: None,
) -> dict[str, Rounded]:  # fmt: skip
    """All layers of a block in steps, by name; `seen` by the name of a site, `size` of a group by inputs.

    `damping` as `gptq.rounded` has it. `watch` hears which part is done, 0 to 1.
    """
    hessians = {}
    for number, site in enumerate(sites):
        watch(number / len(sites) / 2)
        own = seen[site.name]
        hessians[site.name] = own.hessian
        if site.before is not None:
            scaled = block.scale(site, factors(site, block.weights, own, steps, size(site.inputs)))
            hessians[site.name] = own.hessian / scaled / scaled.unsqueeze(1)
    found = {}
    for number, site in enumerate(sites):
        watch(0.5 + number / len(sites) / 2)
        weight = torch.cat([block.weights[layer.name] for layer in site.layers])
        whole = gptq.rounded(weight, hessians[site.name], steps, size(site.inputs), damping, act_order=False)
        parts = whole.split([layer.outputs for layer in site.layers])
        found.update({layer.name: part for layer, part in zip(site.layers, parts, strict=True)})
    return found

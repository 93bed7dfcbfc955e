"""One block on its way from float weights to packed ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from tgi_server.compress import awq, gptq, packing
from tgi_server.compress.forward import Samples, States, Watch
from tgi_server.compress.observe import Changed, Seen, WatchedLoader
from tgi_server.compress.options import WHOLE, Method, QuantizeOptions
from tgi_server.compress.plan import Layer, Site, sites
from tgi_server.compress.rounding import Rounded, Steps
from tgi_server.compress.work import FLOATS
from tgi_server.kernels.row import Needs
from tgi_server.kernels.threads import each
from tgi_server.launcher.job import Report
from tgi_server.layers.parallel import Group
from tgi_server.models.checkpoint import Checkpoint, Tensors
from tgi_server.models.spec import ModelSpec
from tgi_server.models.tensors import found
from tgi_server.models.weights import WeightLoader
from tgi_server.quantize.base import Reader

_OBSERVED, _ROUNDED = 0.4, 0.7
"""Which part of the work on a block is done then, about."""


@dataclass
class Source:
    """The float model.

    Attributes:
        base: its files.
        merged: what they hold, an adapter merged into it.
        reader: makes layers of float tensors.
        needs: where samples run, and in which format.
        tensors: the same as it became while the work goes on.
    """

    spec: ModelSpec
    base: Checkpoint
    merged: Tensors
    options: QuantizeOptions
    reader: Reader
    needs: Needs
    tensors: Changed = field(init=False)

    def __post_init__(self) -> None:
        self.tensors = Changed(self.merged)

    @property
    def half(self) -> bool:
        """Whether floats of the result are float16, whatever they are in the model: readers of AWQ want it."""
        return self.options.method is Method.awq and self.spec.float16

    def loader(self, seen: Mapping[str, Seen] | None = None) -> WeightLoader:
        """What builds layers of the tensors as they are by now."""
        own = self.tensors, self.spec.prefixes, self.reader, Group(), self.needs
        return WeightLoader(*own) if seen is None else WatchedLoader(seen, *own)

    def name(self, name: str) -> str:
        """That of a tensor in the checkpoint."""
        return found(name, self.spec.prefixes, self.tensors) or self.spec.prefixes[0] + name

    def matrix(self, layer: Layer) -> Tensor:
        """The weights of a layer, float32 `[out, in]`."""
        weight = self.loader().vector(f"{layer.name}.weight")
        return weight.t().contiguous() if layer.transposed else weight

    def stored(self, name: str) -> torch.dtype:
        """The format of a float tensor in the result."""
        return torch.float16 if self.half else FLOATS[self.base.infos[self.name(name)].dtype]


class OneBlock:
    """One block, in the order of its methods."""

    def __init__(self, source: Source, samples: Samples, number: int, report: Report) -> None:
        self._source = source
        self._samples = samples
        self._number = number
        self._report = report
        self._own = source.spec.blocks[number]
        self._sites = sites(self._own, source.spec.hidden_size)
        self._layers = [layer for site in self._sites for layer in site.layers]

    def made(self, states: States) -> dict[str, Tensor]:
        """The tensors to be written by name; from now on the model's own are what they mean."""
        seen = {site.name: Seen(site.inputs, self._source.needs.device) for site in self._sites}
        block = self._samples.block(self._own, self._source.loader(seen))
        self._samples.run(block, states, self._watch(0.0, _OBSERVED))
        rounded, vectors = self._rounded(seen)
        changes = self._source.tensors.changes
        tensors = {
            self._source.name(name): vector.to(self._source.stored(name)).cpu() for name, vector in vectors.items()
        }
        changes |= tensors
        for layer in self._layers:
            wide, name = rounded[layer.name].widened().cpu(), self._source.name(f"{layer.name}.weight")
            changes[name] = wide.t().contiguous() if layer.transposed else wide
            packed = self._packed(rounded[layer.name])
            tensors |= {name.removesuffix("weight") + suffix: tensor.cpu() for suffix, tensor in packed.items()}
        return tensors

    def follow(self, states: States, following: States) -> None:
        """What the next block reads, of what became of this one."""
        block = self._samples.block(self._own, self._source.loader())
        self._samples.run(block, states, self._watch(_ROUNDED, 1.0), following)

    def _watch(self, first: float, last: float) -> Watch:
        """Reports a part of the work on this block."""
        count = len(self._source.spec.blocks)

        def watch(part: float) -> None:
            done = self._number + first + (last - first) * part
            self._report(f"Quantising layer {self._number + 1} of {count}", done / count)

        return watch

    def _rounded(self, seen: Mapping[str, Seen]) -> tuple[dict[str, Rounded], dict[str, Tensor]]:
        """The layers by name, and norms and biases that changed."""
        options, source = self._source.options, self._source
        watch = self._watch(_OBSERVED, _ROUNDED)
        if options.method is Method.gptq:
            return self._by_gptq(seen, watch), {}
        weights = {layer.name: source.matrix(layer) for layer in self._layers}
        block = awq.Block(weights, source.loader().vector, source.stored)
        return awq.rounded(self._sites, block, seen, self._steps, self._size, options.damping, watch), block.vectors

    def _by_gptq(self, seen: Mapping[str, Seen], watch: Watch) -> dict[str, Rounded]:
        options, made = self._source.options, dict[str, Rounded]()

        @torch.no_grad()
        def work(site: Site) -> None:
            weight = torch.cat([self._source.matrix(layer) for layer in site.layers])
            whole = gptq.rounded(
                weight, seen[site.name].hessian, self._steps, self._size(site.inputs), options.damping, options.ordered
            )
            parts = whole.split([layer.outputs for layer in site.layers])
            made.update({layer.name: part for layer, part in zip(site.layers, parts, strict=True)})
            watch(len(made) / len(self._layers))

        each(work, self._sites)  # one input after the other is too little work for several threads
        return made

    @property
    def _steps(self) -> Steps:
        options = self._source.options
        return Steps(options.bits, options.centred, least_zero=int(options.method is Method.gptq))

    def _size(self, inputs: int) -> int:
        size = self._source.options.group_size
        return inputs if size == WHOLE else size

    def _packed(self, layer: Rounded) -> dict[str, Tensor]:
        options = self._source.options
        return packing.gptq(layer, options.bits) if options.method is Method.gptq else packing.awq(layer)

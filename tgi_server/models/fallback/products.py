"""Parts of a module computed by the kernel table: linear layers in the weight format of the quantisation method, norms.

What a part computes is not guessed from its class: linear layers are those of torch, norms are tried, and the whole is
looked at again by `proof`.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn

from tgi_server.kernels.operations import Norm, NormKind, normed
from tgi_server.kernels.plain import LinearOp
from tgi_server.models.fallback.proof import Call
from tgi_server.models.weights import WeightLoader

_NUMBER = re.compile(r"\.\d+(?=\.)")
_ROWS = 4


class Product(nn.Module):
    """Stands where a `torch.nn.Linear` was; its weight is the operation's own."""

    def __init__(self, operation: LinearOp, layer: nn.Linear, bias: Tensor | None = None) -> None:
        super().__init__()
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self._operation = operation
        self._added = bias

    def forward(self, x: Tensor) -> Tensor:
        """`[..., in]` to `[..., out]`."""
        y = self._operation(x.reshape(-1, self.in_features).contiguous())
        return (y if self._added is None else y + self._added).view(*x.shape[:-1], self.out_features)


class Shared:
    """One product for layers that read the same input: whoever asks first has it computed for all of them."""

    def __init__(self, operation: LinearOp, outputs: Sequence[int]) -> None:
        self._operation = operation
        self._outputs = list(outputs)
        self._input: Tensor | None = None
        self._parts: list[Tensor | None] = []

    def part(self, x: Tensor, number: int) -> Tensor:
        """The outputs `[..., out]` of layer `number` for `x [..., in]`; each can be had once for an input."""
        if x is not self._input or self._parts[number] is None:
            y = self._operation(x.reshape(-1, x.shape[-1]).contiguous()).view(*x.shape[:-1], -1)
            self._input, self._parts = x, [*y.split_with_sizes(self._outputs, dim=-1)]
        found, self._parts[number] = self._parts[number], None
        assert found is not None
        if not any(part is not None for part in self._parts):
            self._input = None
        return found


class Part(nn.Module):
    """One of the layers of a `Shared`."""

    def __init__(self, shared: Shared, number: int, layer: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self._shared = shared
        self._number = number

    def forward(self, x: Tensor) -> Tensor:
        """`[..., in]` to `[..., out]`."""
        return self._shared.part(x, self._number)


class Normed(nn.Module):
    """Stands where an RMS norm was."""

    def __init__(self, norm: Norm, load: WeightLoader) -> None:
        super().__init__()
        self._norm = norm
        self._dtype = load.needs.dtype
        self._add_norm = load.best("add_norm").run

    def forward(self, x: Tensor) -> Tensor:
        """The norm of `[..., size]`, computed in float32."""
        rows = x.reshape(-1, x.shape[-1]).float().contiguous()
        y: Tensor = self._add_norm(rows, None, self._norm, self._dtype)
        return y.view(x.shape)


def substitute(module: Any, calls: Sequence[Call], load: WeightLoader) -> int:
    """Replace the linear layers that were called, those like them in other experts, and RMS norms; how many layers.

    Layers that read one input become one product. The head's scores are float32 from then on, and its weight is never
    quantised. Layers in another dtype stay.
    """
    head = module.get_output_embeddings()
    layers = {n: part for n, part in module.named_modules() if type(part) is nn.Linear and _fits(part, load)}
    kinds = {_NUMBER.sub(".*", call.name) for call in calls}
    wanted = [name for name, layer in layers.items() if layer is not head and _NUMBER.sub(".*", name) in kinds]
    for name, layer in layers.items():
        if layer is head:
            _put(module, name, _head(layer, load))
    for names in _together(wanted, calls):
        for name, part in zip(names, _parts([layers.pop(name) for name in names], load), strict=True):
            _put(module, name, part)
    for name, norm in [*module.named_modules()]:
        if (found := _norm(norm, load)) is not None:
            _put(module, name, Normed(found, load))
    return len(wanted)


def _fits(layer: nn.Linear, load: WeightLoader) -> bool:
    return layer.weight.dtype == load.needs.dtype


def _put(module: nn.Module, name: str, part: nn.Module) -> None:
    parent, _, own = name.rpartition(".")
    setattr(module.get_submodule(parent), own, part)


def _together(names: Sequence[str], calls: Sequence[Call]) -> Iterator[list[str]]:
    """The names in groups: those of one parent that were called once each, with one input; others alone."""
    times = defaultdict[str, int](int)
    for call in calls:
        times[call.name] += 1
    groups = defaultdict[tuple[str, int], list[str]](list)
    for call in calls:
        if call.name in names and times[call.name] == 1:
            groups[call.name.rpartition(".")[0], id(call.input)].append(call.name)
    yield from groups.values()
    grouped = {name for group in groups.values() for name in group}
    yield from ([name] for name in names if name not in grouped)


def _parts(layers: list[nn.Linear], load: WeightLoader) -> Iterator[nn.Module]:
    """What stands for layers that read one input."""
    weight = layers[0].weight.data if len(layers) == 1 else torch.cat([layer.weight.data for layer in layers])
    operation = load.product(weight, _bias(layers))
    if len(layers) == 1:
        yield Product(operation, layers[0])
        return
    shared = Shared(operation, [layer.out_features for layer in layers])
    yield from (Part(shared, number, layer) for number, layer in enumerate(layers))


def _bias(layers: Sequence[nn.Linear]) -> Tensor | None:
    if all(layer.bias is None for layer in layers):
        return None
    biases = (layer.weight.new_zeros(layer.out_features) if layer.bias is None else layer.bias.data for layer in layers)
    return torch.cat([*biases])


def _head(layer: nn.Linear, load: WeightLoader) -> Product:
    operation = load.best("head", inputs=layer.in_features).run(layer.weight.data)
    return Product(operation, layer, None if layer.bias is None else layer.bias.data.float())


def _norm(part: nn.Module, load: WeightLoader) -> Norm | None:
    """The RMS norm that a part turns out to be when it is tried; None when it is something else."""
    own = [*part.parameters()]
    eps = getattr(part, "variance_epsilon", getattr(part, "eps", None))
    if [*part.children()] or len(own) != 1 or own[0].dim() != 1 or not isinstance(eps, float):
        return None
    if len(signature(part.forward).parameters) != 1 or "norm" not in type(part).__name__.lower():
        return None
    device, dtype = load.needs.device, load.needs.dtype
    x = torch.randn(_ROWS, len(own[0]), generator=torch.Generator().manual_seed(0)).to(device, dtype)
    y = part(x)
    for weight in (own[0].float(), own[0].float() + 1):
        norm = Norm(NormKind.RMS, eps, weight.contiguous())
        right = normed(x.float(), norm)
        tolerance = 4 * torch.finfo(dtype).eps * right.abs().max()
        if y.dtype == dtype and bool(((y.float() - right).abs() <= tolerance).all()):
            return norm
    return None

"""Linear layers of a module computed by the kernel table, in the weight format of the quantisation method."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn

from tgi_server.kernels.plain import LinearOp
from tgi_server.models.weights import WeightLoader

_NUMBER = re.compile(r"\.\d+(?=\.)")


class Product(nn.Module):
    """Stands where a `torch.nn.Linear` was; its weight is the operation's own."""

    def __init__(self, operation: LinearOp, layer: nn.Linear, bias: Tensor | None = None) -> None:
        super().__init__()
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self._operation = operation
        self._added = bias

    def forward(self, x: Tensor) -> Tensor:
        """`[..., in]` to `[..., out]`."""
        rows = x.reshape(-1, self.in_features).contiguous()
        y = self._operation(rows)
        return (y if self._added is None else y + self._added).view(*x.shape[:-1], self.out_features)


def substitute(module: Any, called: Collection[str], load: WeightLoader) -> int:
    """Replace the linear layers that were called, one by one, and those like them in other experts; how many.

    The head's scores are float32 from then on, and its weight is never quantised. Layers in another dtype stay.
    """
    kinds = {_NUMBER.sub(".*", name) for name in called}
    head = module.get_output_embeddings()
    replaced = 0
    for name, layer in [*module.named_modules()]:
        if type(layer) is not nn.Linear or layer.weight.dtype != load.needs.dtype:
            continue
        if layer is not head and _NUMBER.sub(".*", name) not in kinds:
            continue
        parent, _, own = name.rpartition(".")
        setattr(module.get_submodule(parent), own, _head(layer, load) if layer is head else _product(layer, load))
        replaced += 1
    return replaced


def _product(layer: nn.Linear, load: WeightLoader) -> Product:
    return Product(load.product(layer.weight.data, None if layer.bias is None else layer.bias.data), layer)


def _head(layer: nn.Linear, load: WeightLoader) -> Product:
    operation = load.best("head", inputs=layer.in_features).run(layer.weight.data)
    return Product(operation, layer, None if layer.bias is None else layer.bias.data.to(torch.float32))

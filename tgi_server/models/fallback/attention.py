"""What transformers' layers call as attention: keys and values go to the paged cache, which our kernels then read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from tgi_server.errors import ModelError
from tgi_server.kernels.attention import AttentionBatch, Features, LayerCache
from tgi_server.models.fallback.spec import FallbackSpec, Layer
from tgi_server.models.weights import WeightLoader

Run = Callable[[int, Tensor, Tensor, Tensor, Features], Tensor]
"""Attention of the cache with this place: query, key, value `[tokens, heads, width]` to `[tokens, heads, width]`."""


class PagedAttention:
    """Attention of all layers of one model; see `modules.Attention`.

    What makes layers differ comes as keyword arguments that mean what they mean to transformers: `scaling`, `softcap`,
    `s_aux` (sinks). The window is that of the description, which knows the masks too.
    """

    def __init__(self, spec: FallbackSpec, load: WeightLoader) -> None:
        self._layers = spec.layers_seen
        self._place_of = {layer.number: place for place, layer in enumerate(spec.layers_seen)}
        self._group_of = spec.group_of
        self._dtype = load.needs.dtype
        own = [
            [a for a, g in zip(self._layers, self._group_of, strict=True) if g == n] for n in range(len(spec.groups))
        ]
        widths = [_widest(layers) for layers in own]
        self._begin = [load.best("attention", **width).run for width in widths]
        self._store = [load.best("rotate_store", **width).run for width in widths]
        self._features: dict[int, Features] = {}
        self._run: Run = _nowhere

    def __call__(
        self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None = None,
        *args: Any, **kwargs: Any,
    ) -> tuple[Tensor, None]:  # fmt: skip
        """`[1, heads, tokens, width]` to `[1, tokens, heads, width]`."""
        place = self._place_of[module.layer_idx]  # type: ignore[index]
        features = self._features.get(place)
        if features is None:
            features = self._features[place] = _features(self._layers[place], query, key, kwargs)
        q, k, v = (x[0].transpose(0, 1).to(self._dtype) for x in (query, key, value))
        return self._run(place, q, k, v, features).unsqueeze(0).to(query.dtype), None

    @contextmanager
    def over(self, caches: Sequence[LayerCache], batches: Sequence[AttentionBatch]) -> Iterator[None]:
        """Within this, over these caches, one a layer; `batches` has one a group."""
        attends = [begin(batch) for begin, batch in zip(self._begin, batches, strict=True)]

        def run(place: int, query: Tensor, key: Tensor, value: Tensor, features: Features) -> Tensor:
            group, cache, heads = self._group_of[place], caches[place], query.shape[1]
            qkv = _joined(query, key, value)
            stored = self._store[group](qkv, None, batches[group].slots, cache, heads)  # positions turned them already
            result: Tensor = attends[group](*stored, cache, features)
            return result

        with self._as(run):
            yield

    @contextmanager
    def alone(self) -> Iterator[list[Tensor]]:
        """Within this, each token sees itself only; the list gets each layer's queries, keys and values by token."""
        rows: list[Tensor] = []

        def run(place: int, query: Tensor, key: Tensor, value: Tensor, features: Features) -> Tensor:
            rows.append(_joined(query, key, value).float())
            return value.repeat_interleave(query.shape[1] // value.shape[1], dim=1)

        with self._as(run):
            yield rows

    @contextmanager
    def _as(self, run: Run) -> Iterator[None]:
        self._run = run
        try:
            yield
        finally:
            self._run = _nowhere


def _joined(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Side by side, `[tokens, numbers]`."""
    if query.shape[2] == value.shape[2]:  # one copy of all
        return torch.cat([query, key, value], dim=1).flatten(1)
    return torch.cat([query.flatten(1), key.flatten(1), value.flatten(1)], dim=1)


def _features(layer: Layer, query: Tensor, key: Tensor, given: dict[str, Any]) -> Features:
    """Of one layer, from the first call; they are the same in all others."""
    window, sinks, scale = (given.get(name) for name in ("sliding_window", "s_aux", "scaling"))
    if layer.window is not None and window is not None and window != layer.window:
        raise ModelError(f"layer {layer.number} has a window of {window}, its masks one of {layer.window}")
    return Features(
        query.shape[-1] ** -0.5 if scale is None else float(scale), layer.window, given.get("softcap"),
        sinks=None if sinks is None else sinks.detach().float().flatten(),
    )  # fmt: skip


def _widest(layers: Sequence[Layer]) -> dict[str, int]:
    """Of the heads of layers that are computed by one kernel."""
    return {"key_width": max(a.key_width for a in layers), "value_width": max(a.value_width for a in layers)}


def _nowhere(place: int, query: Tensor, key: Tensor, value: Tensor, features: Features) -> Tensor:
    raise RuntimeError("attention outside of a step")

"""Finds out what a module of transformers keeps, by running it without weights and without numbers (the meta device).

What its layers hand to the attention interface, and which masks they ask for, tell what each layer's cache has to hold.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from tgi_server.errors import ModelError
from tgi_server.models.fallback.modules import PREFIX, Source, inner, told
from tgi_server.models.fallback.spec import FallbackSpec, Layer

NOT_CALLED = "its layers do not call transformers' attention interface, through which the cache is reached"
TOKENS = 5
_ATTENTION = {"full_attention", "sliding_attention", "chunked_attention"}
_STATEFUL = (nn.Conv1d, nn.RNNBase)
_LENGTHS = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "n_ctx")
_GROWING = ("dynamic", "longrope", "su")
"""Rotary positions whose frequencies depend on how long a text is beyond its original length."""


def describe(directory: Path, trust: bool) -> FallbackSpec:
    """The model in `directory`, of which config.json is enough, and the code that it names if `trust` allows that.

    Raises ModelError, one line, for a model that cannot be served in this way.
    """
    path = directory / "config.json"
    try:
        source = Source(directory, trust)
    except SystemExit as error:
        raise ModelError(f"{path}: its own code ends the process that reads it (exit status {error.code})") from None
    try:
        with torch.inference_mode(False):  # where composite operations would reach `Hollow` whole
            return _described(source, directory)
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error
    except Exception as error:  # whatever a module makes of numbers that do not fit, or of no mask
        raise ModelError(f"{path}: {_reason(error)}") from error


def _described(source: Source, directory: Path) -> FallbackSpec:
    config = source.config.get_text_config(decoder=True)
    _check_kind(config)
    seen = Seen()
    with torch.device("meta"), Hollow():  # type: ignore[no-untyped-call]
        module: Any = source.make(seen, dtype=torch.bfloat16)
        transformers.AttentionMaskInterface.register(module.config._attn_implementation, seen.mask)
        widths: list[int] = []
        inner(module).register_forward_hook(lambda module, given, out: widths.append(out.last_hidden_state.shape[-1]))
        with torch.no_grad():
            logits = module(input_ids=torch.zeros(1, TOKENS, dtype=torch.int64), use_cache=False).logits
    _check_modules(module)
    layers = seen.layers()
    _check_every_layer(config, layers)
    return FallbackSpec(
        vocab_size=logits.shape[-1], hidden_size=widths[0],
        max_positions=min([*_lengths(config), *seen.chunks], default=None), directory=str(directory),
        layers_seen=layers, remote=source.remote, head_of=_head_of(module),
    )  # fmt: skip


def _head_of(module: Any) -> str | None:
    vectors, head = module.get_input_embeddings(), module.get_output_embeddings()
    if head is None or vectors.weight is not head.weight:
        return None
    return str(next(name for name, parameter in module.named_parameters() if parameter is vectors.weight))


def _reason(error: Exception) -> str:
    if isinstance(error, KeyError) and error.args and str(error.args[0]).startswith(PREFIX):
        return NOT_CALLED
    return f"transformers' module for it does not run with attention over a paged cache: {told(error)}"


class Hollow(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Lets code run on that asks tensors without numbers for a number: nothing is found, and every condition is met."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """See `TorchDispatchMode`."""
        first = args[0] if args else None
        if isinstance(first, Tensor) and first.is_meta:
            if func is torch.ops.aten.nonzero.default:
                return first.new_empty((0, first.dim()), dtype=torch.int64)
            if func is torch.ops.aten._local_scalar_dense.default:
                return True if first.dtype == torch.bool else 1
        return func(*args, **(kwargs or {}))


class Seen:
    """Stands in for attention: notes what each layer gives it, and the masks that are asked for.

    A mask is one number everywhere: the window, 0 for none, or less than that for a chunk.
    """

    def __init__(self) -> None:
        self.chunks: list[int] = []
        self._layers: dict[int, Layer] = {}

    def __call__(
        self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None = None,
        *args: Any, **kwargs: Any,
    ) -> tuple[Tensor, None]:  # fmt: skip
        """See `modules.Attention`."""
        number = getattr(module, "layer_idx", None)
        if number is None:
            raise ModelError(f"{type(module).__name__} does not know the number of its layer")
        if not kwargs.get("is_causal", getattr(module, "is_causal", True)):
            raise ModelError("its attention sees what follows a token, as in models that read text; none are served")
        if query.shape[2] != key.shape[2] or query.shape[0] != 1:
            raise ModelError(f"{type(module).__name__} attends to more than the tokens it is given")
        if number in self._layers:
            raise ModelError(f"layer {number} attends more than once")
        window = self._window(attention_mask, kwargs.get("sliding_window"))
        self._layers[number] = Layer(number, key.shape[1], key.shape[3], value.shape[3], window)
        return query.new_empty(1, query.shape[2], query.shape[1], value.shape[3]), None

    def _window(self, mask: Tensor | None, told: int | None) -> int | None:
        """As the mask has it; where none is made, as the layer says."""
        if mask is None:
            return told
        if mask.is_meta:
            raise ModelError("it makes attention masks of its own")
        size = int(mask.flatten()[0])
        if size < 0:
            self.chunks.append(-size)
        return size if size > 0 else None

    def mask(
        self, mask_function: Callable[..., Tensor], q_length: int = TOKENS, kv_length: int = TOKENS,
        local_size: int | None = None, **more: Any,
    ) -> Tensor:  # fmt: skip
        """What a mask lets a query see, for transformers' mask interface."""
        zero = torch.tensor(0, device="cpu")

        def sees(query: int, key: int) -> bool | None:
            try:
                seen = mask_function(zero, zero, zero + query, zero + key)
            except NotImplementedError:  # it depends on numbers that are not there, as chunks on padding
                return None
            return None if seen.is_meta else bool(seen)

        if local_size is None and sees(0, 1) is not False:
            raise ModelError("its masks let tokens see what follows them; only causal attention is served")
        size = local_size or 0
        if local_size is not None and not (sees(local_size, 1) is True and sees(local_size, 0) is False):
            size = -local_size
        return torch.full((1, 1, q_length, kv_length), size, device="cpu")

    def layers(self) -> tuple[Layer, ...]:
        """In the order of their numbers."""
        return tuple(self._layers[number] for number in sorted(self._layers))


def _check_kind(config: Any) -> None:
    """What the configuration tells of layers that are not attention."""
    if getattr(config, "is_encoder_decoder", False):
        raise ModelError("it has an encoder beside its decoder, which transformers' attention interface cannot page")
    kinds = [kind for kind in getattr(config, "layer_types", None) or [] if kind not in _ATTENTION]
    if kinds:
        raise ModelError(
            f"layer_types has {kinds[0]!r}, layers with a state (recurrent, convolution, index) that is not kept here; "
            f"served: {', '.join(sorted(_ATTENTION))}"
        )


def _check_modules(module: nn.Module) -> None:
    for name, part in module.named_modules():
        if isinstance(part, _STATEFUL):
            raise ModelError(
                f"{name} ({type(part).__name__}) keeps recurrent or convolution state, which is not served"
            )


def _check_every_layer(config: Any, layers: tuple[Layer, ...]) -> None:
    if not layers:
        raise ModelError(NOT_CALLED)
    count = getattr(config, "num_hidden_layers", len(layers))
    numbers = {layer.number for layer in layers}
    if without := [number for number in range(count) if number not in numbers]:
        raise ModelError(f"layer {without[0]} of {count} does not call transformers' attention interface")


def _lengths(config: Any) -> Iterator[int]:
    """Texts longer than any of these are not what the model was made for."""
    written = [value for name in _LENGTHS if isinstance(value := getattr(config, name, None), int) and value > 0]
    yield from written[:1]
    for rope in _ropes(getattr(config, "rope_parameters", None)):
        if rope.get("rope_type") in _GROWING:
            original = rope.get("original_max_position_embeddings")
            yield from [original] if original else written[:1]


def _ropes(entry: Any) -> Iterator[Mapping[str, Any]]:
    """Rotary positions, of all layers or by their types."""
    if isinstance(entry, Mapping):
        yield entry
        for value in entry.values():
            yield from _ropes(value)

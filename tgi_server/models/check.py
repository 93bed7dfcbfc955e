"""What can be refused of a model before anything is loaded: shards, lengths, memory. Stdlib only."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path

from tgi_server.cache.kinds import CacheKind
from tgi_server.cache.lengths import USABLE, lengths_within, longest, shortest
from tgi_server.config.schema import AUTO, BatchingOptions, DType, ServerConfig
from tgi_server.errors import ConfigError, ModelError
from tgi_server.models.description import Description, LayerShape
from tgi_server.models.fallback import spec as fallback
from tgi_server.models.families import read_spec, serves
from tgi_server.models.files import TensorInfo, numbers
from tgi_server.models.tensors import found, read_by
from tgi_server.quantize import settings
from tgi_server.quantize.base import FLOATS, QuantizeMethod, Reader, Stored, marks, together
from tgi_server.quantize.none import NoQuantize
from tgi_server.quantize.settings import Settings
from tgi_server.rope.kinds import overruled
from tgi_server.types import BLOCK_SIZE

ITEM_BYTES = {DType.float16: 2, DType.bfloat16: 2, DType.float32: 4}


def described(
    directory: Path, config: ServerConfig, num_shard: int, dtype: DType, ask: fallback.Ask | None = None,
    quantize: QuantizeMethod | None = None,
) -> Description:  # fmt: skip
    """The model in `directory`, of which config.json is enough; raises ModelError or ConfigError as `check` does.

    `ask` finds out what is to know of a model of no family here; without it, such a model is refused.
    """
    spec: Description
    if ask is None or serves(directory):
        spec = read_spec(directory, config)
    else:
        spec = fallback.read(directory, config, num_shard, ask)
    check(spec, config, num_shard, dtype)
    check_cuts(spec, num_shard, reader_of(directory, spec, quantize).stored())
    return spec


def check(spec: Description, options: ServerConfig, num_shard: int, dtype: DType) -> None:
    """Raise ConfigError, with all that is wrong, unless the model can be spread and is made for such lengths."""
    problems = [*_shards(spec, num_shard), *_lengths(spec, options), *_chunks(spec, options), *_range(spec, dtype)]
    if overruled(options) and not spec.has_rope:
        problems.append("rope_scaling, rope_factor: this model has no rotary positions; leave them out")
    if problems:
        raise ConfigError("; ".join(problems))


def reader_of(directory: Path, spec: Description, quantize: QuantizeMethod | None = None) -> Reader:
    """What reads the layers of the checkpoint in `directory`, by default as it says of itself.

    Raises ModelError or ConfigError where the method cannot.
    """
    said = settings_of(directory, spec)
    reader = (quantize or NoQuantize()).reader(said)
    if marks(reader.stored()) and not any(isinstance(shape, LayerShape) for _, shape in spec.tensors()):
        place = directory if said is None else said.place
        raise ModelError(f"{place}: of models of this type only weights that are not quantised are served")
    return reader


def settings_of(directory: Path, spec: Description) -> Settings | None:
    """What a checkpoint says of how it was quantised; None where its family knows that by itself."""
    return None if spec.packed() else settings.read(directory, numbers(directory, settings.TENSORS))


def check_cuts(spec: Description, num_shard: int, stored: Mapping[str, Stored]) -> None:
    """Raise ConfigError unless every shard's part is made of whole elements of what a quantisation method stores."""
    outputs, inputs = together(stored)
    if spec.whole(num_shard, outputs, inputs):
        return
    works = [n for n in spec.shards_that_work() if spec.whole(n, outputs, inputs)]
    raise ConfigError(
        f"num_shard={num_shard}: the checkpoint keeps {outputs} outputs and {inputs} inputs of a layer together, which "
        f"so many shards would cut apart; these numbers work: {_listed(works)}"
    )


def _shards(spec: Description, num_shard: int) -> Iterator[str]:
    works = spec.shards_that_work()
    if num_shard in works:
        return
    yield (
        f"num_shard={num_shard}: the model's {spec.unsplit()} cannot be split over {num_shard} shards; "
        f"these numbers work: {_listed(works)}"
    )


def _listed(works: list[int]) -> str:
    every = len(works) > 1 and works == list(range(1, works[-1] + 1))
    return f"1 to {works[-1]}" if every else ", ".join(map(str, works))


def _lengths(spec: Description, options: BatchingOptions) -> Iterator[str]:
    if spec.max_positions is not None and options.max_total_tokens > spec.max_positions:
        yield (
            f"max_total_tokens={options.max_total_tokens} is more than the {spec.max_positions} positions the "
            f"model was made for; max_total_tokens={spec.max_positions} works"
        )
    elif options.max_total_tokens == AUTO and options.max_input_length >= (
        total := longest(options, spec.max_positions).max_total_tokens
    ):
        yield (
            f"max_input_length={options.max_input_length} leaves no room for an answer within the {total} tokens "
            f"that max_total_tokens=auto comes to; max_input_length={total - 1} works"
        )


def _chunks(spec: Description, options: BatchingOptions) -> Iterator[str]:
    if options.prefill_chunk_tokens is not None and spec.start_token_id is not None:
        yield f"prefill_chunk_tokens={options.prefill_chunk_tokens}: an encoder reads a prompt whole; leave it out"


def _range(spec: Description, dtype: DType) -> Iterator[str]:
    if dtype is DType.float16 and not spec.float16:
        yield "dtype=float16: values of this model are too large for it; dtype=bfloat16 works"


def check_memory(
    spec: Description,
    options: BatchingOptions,
    tensors: Mapping[str, TensorInfo],
    dtype: DType,
    reader: Reader,
    free: int,
    beside: float = 0,
) -> None:
    """Raise ConfigError unless weights and the cache of one longest request fit in `free` bytes of the host, and of
    states those of all requests, which are there from the start.

    All shards together, as they share the host. It counts no more than is needed for sure. `beside` are bytes of
    other weights, which are kept with them.
    """
    item, options = ITEM_BYTES[dtype], shortest(options)
    weights = beside + sum(_weights(spec, tensors, item, reader))
    slots = 1 if options.max_batch_total_tokens else options.max_concurrent_requests

    def needed(options: BatchingOptions) -> int:
        counts = {CacheKind.FULL: -(-options.max_total_tokens // BLOCK_SIZE), CacheKind.STATE: slots}
        return sum(
            spec.block_bytes(number, 1, item) * counts.get(group.kind, 1) for number, group in enumerate(spec.groups)
        )

    cache = needed(options)
    told = f", with the states of {slots} texts (max_concurrent_requests)" if _has_states(spec) and slots > 1 else ""
    if weights + cache > free:
        raise ConfigError(
            f"the model does not fit in the free memory, {_gib(free)}: its weights take {_gib(weights)}, the cache of "
            f"one request of max_total_tokens={options.max_total_tokens} takes {_gib(cache)}{told}"
            f"{_works(lengths_within(options, lambda shorter: needed(shorter) <= USABLE * (free - weights)))}"
        )


def _works(lengths: tuple[int, int] | None) -> str:
    return "" if lengths is None else f"; max_input_length={lengths[0]} max_total_tokens={lengths[1]} may work"


def _has_states(spec: Description) -> bool:
    return any(group.kind is CacheKind.STATE for group in spec.groups)


def _gib(size: float) -> str:
    return f"{size / 2**30:.1f} GiB"


def _weights(spec: Description, tensors: Mapping[str, TensorInfo], item: int, reader: Reader) -> Iterator[float]:
    """Bytes of what is loaded of each tensor."""
    packed = {found(name, spec.prefixes, tensors): numbers for name, numbers in spec.packed().items()}
    layers = {
        found(name, spec.prefixes, tensors) for name, shape in spec.tensors() if isinstance(shape, LayerShape)
    } | packed.keys()
    for name in read_by(spec, tensors, reader.stored()):
        tensor, each = tensors[name], reader.weight_bytes if name in layers else None
        if tensor.dtype not in FLOATS and name not in packed:
            yield tensor.bytes
        else:
            yield math.prod(tensor.shape) * packed.get(name, 1) * (item if each is None else each)

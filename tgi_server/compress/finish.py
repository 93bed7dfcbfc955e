"""From the blocks' files to a checkpoint: shards of a size that others like, the other tensors, the descriptions."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from itertools import chain
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import torch
from numpy.typing import NDArray

from tgi_server.compress.options import Method, QuantizeOptions
from tgi_server.compress.work import FLOATS
from tgi_server.launcher import checkpoint, safetensors_writer
from tgi_server.models.checkpoint import Checkpoint, Tensors
from tgi_server.models.files import ITEM_BITS, SAFETENSORS, json_object
from tgi_server.models.files import tensors as headers_of

_SHARD = 5 * 10**9
"""Bytes of a file at most, one tensor that is larger aside."""
_PIECE = 1 << 24
"""Numbers that are written together."""


class Entry(NamedTuple):
    """A tensor of the result: `read` from there, converted to this format."""

    code: str
    shape: tuple[int, ...]
    source: Tensors

    @property
    def bytes(self) -> int:
        """Its length."""
        return prod(self.shape) * ITEM_BITS[self.code] // 8


def entries(base: Checkpoint, tensors: Tensors, blocks: list[Path], gone: set[str], half: bool) -> dict[str, Entry]:
    """All tensors of the result: those of the blocks' files, and of the model's own all but what is `gone`.

    `tensors` has the model's own, whose number formats `base` tells; `half` makes float16 of other floats.
    """
    made: dict[str, Entry] = {}
    for path in blocks:
        file = Checkpoint(path.parent, infos=headers_of(path))
        made |= {name: Entry(info.dtype, info.shape, file) for name, info in file.infos.items()}
    for name, info in base.infos.items():
        if name not in made and name not in gone:
            code = "F16" if half and info.dtype in ("BF16", "F32", "F64") else info.dtype
            made[name] = Entry(code, info.shape, tensors)
    return made


def write(directory: Path, made: Mapping[str, Entry], limit: int = _SHARD) -> None:
    """model.safetensors, or several files and their index."""
    shards: list[dict[str, Entry]] = [{}]
    room = limit
    for name, entry in made.items():
        if entry.bytes > room and shards[-1]:
            shards.append({})
            room = limit
        shards[-1][name] = entry
        room -= entry.bytes
    total = len(shards)
    names = (
        [SAFETENSORS.single] if total == 1 else [f"model-{n:05}-of-{total:05}.safetensors" for n in range(1, total + 1)]
    )
    for file, shard in zip(names, shards, strict=True):
        header = {name: (entry.code, entry.shape) for name, entry in shard.items()}
        safetensors_writer.write(directory / file, header, chain.from_iterable(map(_pieces, shard, shard.values())))
    if total > 1:
        size = sum(entry.bytes for entry in made.values())
        where = {name: file for file, shard in zip(names, shards, strict=True) for name in shard}
        index = {"metadata": {"total_size": size}, "weight_map": where}
        _write_json(directory / SAFETENSORS.index_file, index)


def _pieces(name: str, entry: Entry) -> Iterator[NDArray[Any]]:
    """The bytes of a tensor, some rows at a time."""
    rows = entry.shape[0] if entry.shape else 1
    step = max(1, _PIECE * rows // max(1, prod(entry.shape)))
    for first in range(0, rows, step):
        part = (first, min(first + step, rows)) if entry.shape else None
        tensor = entry.source.read(name, rows=part)
        if entry.code in FLOATS:  # an adapter's sums are float32
            tensor = tensor.to(FLOATS[entry.code])
        yield tensor.contiguous().reshape(-1).view(torch.uint8).numpy()


def describe(model: Path, directory: Path, options: QuantizeOptions, half: bool) -> None:
    """Configuration, tokenizer and what else lies beside the weights, copied; config.json tells how to read them."""
    told = ("config.json", "quantize_config.json", "quant_config.json")
    for name in checkpoint.description_names(model):
        if name not in told:
            shutil.copyfile(model / name, directory / name)
    config = json_object(model / "config.json")
    if half:
        config = {name: "float16" if name in ("dtype", "torch_dtype") else value for name, value in config.items()}
    own = quantization(options)
    _write_json(directory / "config.json", {**config, "quantization_config": own})
    if options.method is Method.gptq:
        _write_json(directory / "quantize_config.json", own)
    else:
        names = {"zero_point": "zero_point", "q_group_size": "group_size", "w_bit": "bits"}
        old = {name: own[key] for name, key in names.items()}
        _write_json(directory / "quant_config.json", {**old, "version": "GEMM"})


def quantization(options: QuantizeOptions) -> dict[str, Any]:
    """`quantization_config` of config.json."""
    common = {"quant_method": options.method.value, "bits": options.bits, "group_size": options.group_size}
    if options.method is Method.awq:
        return {**common, "zero_point": True, "version": "gemm", "modules_to_not_convert": None}
    return {
        **common, "desc_act": options.ordered, "sym": options.centred, "damp_percent": options.damping,
        "static_groups": False, "true_sequential": False, "lm_head": False, "checkpoint_format": "gptq",
    }  # fmt: skip


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

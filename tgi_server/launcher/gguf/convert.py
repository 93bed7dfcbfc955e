"""Conversion of a GGUF file, as a program: `python -m tgi_server.launcher.gguf.convert SOURCE TARGET DTYPE`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType
from gguf.quants import dequantize
from numpy.typing import NDArray

from tgi_server.config.schema import DType
from tgi_server.errors import ModelError
from tgi_server.launcher import conversions, job, safetensors_writer
from tgi_server.launcher.gguf import llama, tokenizer
from tgi_server.launcher.gguf.reader import GgufFile

_FORMATS = {DType.float32: "F32", DType.float16: "F16", DType.bfloat16: "BF16"}
_CHUNK = 1 << 22
"""Values converted at a time: 16 MiB of float32, a few times that with what dequantisation needs."""


def convert(source: Path, directory: Path, dtype: DType, report: job.Report) -> None:
    """Fill `directory` with the model of a GGUF file, its weights in `dtype`.

    Raises:
        ModelError: the file is damaged, or its architecture, tokenizer or quantisation is not supported.
    """
    stage = f"Converting {source.name}"
    report(stage, 0.0)
    file = GgufFile(source)
    architecture = file.required("general.architecture", str)
    if architecture != llama.NAME:
        raise ModelError(
            f"{source}: the architecture {architecture!r} is not supported in GGUF files ({llama.NAME} is); "
            "give a directory with safetensors"
        )
    config = llama.read_config(file)
    targets = llama.targets(file, config)
    _write_descriptions(file, config, directory, dtype)
    tensors = {target.name: (_FORMATS[dtype], target.shape) for target in targets.values()}
    pieces = _pieces(file, targets, dtype, lambda fraction: report(stage, fraction))
    try:
        safetensors_writer.write(directory / "model.safetensors", tensors, pieces)
    except NotImplementedError as error:  # a way to store tensors that the gguf package does not decode
        raise ModelError(f"{source}: {error}") from None


def _write_descriptions(file: GgufFile, config: llama.Config, directory: Path, dtype: DType) -> None:
    """Everything but the weights."""
    ids = tokenizer.special_ids(file)
    contents: dict[str, dict[str, Any]] = {
        "config.json": {**llama.hf_config(config), **ids, "dtype": dtype.value},
        "generation_config.json": ids,
        "tokenizer_config.json": tokenizer.settings(file, config.max_position_embeddings),
    }
    for name, content in contents.items():
        (directory / name).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    # Its own `save` raises no OSError when the disk is full.
    (directory / "tokenizer.json").write_text(tokenizer.build(file).to_str(pretty=False), encoding="utf-8")


def _pieces(
    file: GgufFile, targets: Mapping[str, llama.Target], dtype: DType, progress: Callable[[float], None]
) -> Iterator[NDArray[Any]]:
    """The values of all tensors in order, a few rows at a time."""
    total = sum(len(file.tensors[name].data) for name in targets)
    done = 0
    for name, target in targets.items():
        stored = file.tensors[name]
        order = target.row_order()
        step = max(1, _CHUNK // target.shape[-1])
        for first in range(0, len(order), step):
            wanted = stored.data[order[first : first + step]]
            yield _narrow(_decode(wanted, stored.kind), dtype, f"{file.path}: {name}")
            done += len(wanted)
            progress(done / total)


def _decode(rows: NDArray[Any], kind: GGMLQuantizationType) -> NDArray[np.float32]:
    with np.errstate(all="ignore"):  # no warnings about damaged values: `_narrow` refuses what is not finite
        values: NDArray[np.float32] = dequantize(rows, kind)
    return values


def _narrow(values: NDArray[np.float32], dtype: DType, what: str) -> NDArray[Any]:
    """float32 in the bytes of `dtype`, rounded to the nearest (to even on a tie); bfloat16 comes as uint16.

    Raises:
        ModelError: a value is not finite, or becomes so.
    """
    narrow: NDArray[Any] = values
    if dtype is DType.float16:
        with np.errstate(over="ignore"):
            narrow = values.astype(np.float16)
    if not np.isfinite(narrow).all():
        raise ModelError(f"{what} holds values that are not finite numbers in {dtype.value}")
    if dtype is DType.bfloat16:
        bits = np.ascontiguousarray(values).view(np.uint32)
        narrow = ((bits + (0x7FFF + ((bits >> 16) & 1))) >> 16).astype(np.uint16)
    return narrow


def main(source: Path, target: Path, dtype: DType, report: job.Report) -> str:
    """Convert into the cache, unless another process has just done it. Returns the directory."""
    try:
        conversions.build(target, lambda directory: convert(source, directory, dtype, report), report)
    except OSError as error:  # what fails in a write, as on a full disk, does not name the file
        raise ModelError(f"{error.filename or target.parent}: {error.strerror or error}") from None
    return str(target)


if __name__ == "__main__":
    job.perform(lambda report: main(Path(sys.argv[1]), Path(sys.argv[2]), DType(sys.argv[3]), report))

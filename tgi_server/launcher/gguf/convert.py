"""Conversion of a GGUF file, as a program: `python -m tgi_server.launcher.gguf.convert SOURCE TARGET DTYPE`."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tgi_server.config.schema import DType
from tgi_server.errors import ModelError
from tgi_server.launcher import conversions, job, safetensors_writer
from tgi_server.launcher.gguf import tokenizer
from tgi_server.launcher.gguf.describe import describe, write
from tgi_server.launcher.gguf.reader import GgufFile
from tgi_server.launcher.gguf.tensors import Target


def convert(source: Path, directory: Path, dtype: DType, report: job.Report) -> None:
    """Fill `directory` with the model of a GGUF file, its weights in `dtype`.

    Raises:
        ModelError: the file is damaged, or its architecture, tokenizer or quantisation is not supported.
    """
    stage = f"Converting {source.name}"
    report(stage, 0.0)
    file = GgufFile(source)
    described = describe(file, dtype)
    built = tokenizer.build(file)
    write(described, directory)
    settings = tokenizer.settings(file, described.max_length)
    (directory / "tokenizer_config.json").write_text(
        json.dumps(settings, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    # Its own `save` raises no OSError when the disk is full.
    (directory / "tokenizer.json").write_text(built.to_str(pretty=False), encoding="utf-8")
    pieces = _pieces(source, described.targets, dtype, lambda fraction: report(stage, fraction))
    safetensors_writer.write(directory / "model.safetensors", described.tensors(dtype), pieces)


def _pieces(
    path: Path, targets: Sequence[Target], dtype: DType, progress: Callable[[float], None]
) -> Iterator[NDArray[Any]]:
    """The values of all tensors in order, a few rows at a time."""
    total = sum(math.prod(target.shape) for target in targets)
    done = 0
    for target in targets:
        for piece in target.pieces():
            yield _narrow(piece, dtype, f"{path}: {', '.join(source.name for source in target.sources)}")
            done += piece.size
            progress(done / total)


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

"""Conversion of .bin checkpoints, as a program: `python -m tgi_server.launcher.unpickle SOURCE TARGET FILE...`.

Such files are pickles, which may call any function when they are loaded. Here only tensors are accepted.
"""

from __future__ import annotations

import json
import pickle
import re
import sys
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from tgi_server.errors import ModelError
from tgi_server.launcher import conversions, job, safetensors_writer
from tgi_server.models.files import SAFETENSORS

_FORMATS = {
    torch.bool: "BOOL", torch.uint8: "U8", torch.int8: "I8", torch.int16: "I16", torch.int32: "I32",
    torch.int64: "I64", torch.float8_e4m3fn: "F8_E4M3", torch.float8_e5m2: "F8_E5M2", torch.float16: "F16",
    torch.bfloat16: "BF16", torch.float32: "F32", torch.float64: "F64",
}  # fmt: skip
_PIECE = 1 << 26
"""Bytes that are written together."""
_ZIP = b"PK\x03\x04"
"""How files of torch 1.6 and later begin; only those can be memory-mapped."""
_REFUSED = re.compile(r"GLOBAL (\S+)")
"""What torch calls a function or class that a pickle wants to use."""


def convert(source: Path, names: list[str], directory: Path, report: job.Report) -> None:
    """Fill `directory` with the tensors of the files `names` as safetensors, one file for each, and an index.

    Tensors keep their number formats. Those that share memory are written once for each of their names.

    Raises:
        ModelError: a file is damaged, holds anything but tensors, or has a tensor of another file.
    """
    owner: dict[str, str] = {}
    for number, name in enumerate(names, start=1):
        stage = f"Converting {name} ({number} of {len(names)})"
        report(stage, 0.0)
        tensors = _load(source / name)
        target = f"model-{number:05}-of-{len(names):05}.safetensors"
        if twice := owner.keys() & tensors.keys():
            raise ModelError(f"{source / name}: the tensor {min(twice)} is in another file, too")
        owner |= dict.fromkeys(tensors, target)
        header = {key: (_format(source / name, key, tensor), tuple(tensor.shape)) for key, tensor in tensors.items()}
        safetensors_writer.write(directory / target, header, _pieces(tensors, stage, report))
    (directory / SAFETENSORS.index_file).write_text(json.dumps({"weight_map": owner}), encoding="utf-8")


def _load(path: Path) -> Mapping[str, Tensor]:
    """The tensors in a file by name."""
    with path.open("rb") as file:
        mapped = file.read(len(_ZIP)) == _ZIP
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        found = _REFUSED.search(str(error))
        wish = f"wants to call {found[1]} when it is loaded" if found else "is damaged, or no checkpoint of torch"
        raise ModelError(f"{path} {wish}; it is refused, none of its code has run") from None
    except OSError:
        raise
    except Exception as error:  # a damaged pickle can do anything that an allowed function raises for
        reason = " ".join(str(error).split()).partition(". ")[0]  # the rest is advice on torch's arguments
        raise ModelError(f"{path} cannot be read: {reason or type(error).__name__}") from None
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict) or not content:
        raise ModelError(f"{path} holds no tensors by name")
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise ModelError(f"{path}: {name!r} is no tensor")
    return content


def _format(path: Path, name: str, tensor: Tensor) -> str:
    """The name of its number format in safetensors files."""
    if tensor.layout is not torch.strided or tensor.dtype not in _FORMATS:
        raise ModelError(f"{path}: {name} is of the kind {tensor.layout}, {tensor.dtype}, which is not supported")
    if tensor.nbytes > tensor.untyped_storage().nbytes():  # one value, said to be there a million times
        raise ModelError(f"{path}: {name} claims more values than the file holds")
    return _FORMATS[tensor.dtype]


def _pieces(tensors: Mapping[str, Tensor], stage: str, report: job.Report) -> Iterator[NDArray[Any]]:
    total = sum(tensor.nbytes for tensor in tensors.values()) or 1
    done = 0
    for tensor in tensors.values():
        for piece in torch.split(tensor.detach().contiguous().reshape(-1).view(torch.uint8), _PIECE):
            yield piece.numpy()
            done += len(piece)
            report(stage, done / total)


def main(source: Path, target: Path, names: list[str], report: job.Report) -> str:
    """Convert into the cache, unless another process has just done it. Returns the directory."""
    conversions.build(target, lambda directory: convert(source, names, directory, report), report)
    return str(target)


if __name__ == "__main__":
    warnings.simplefilter("ignore")  # about old ways to store tensors; whoever starts a server cannot change them
    job.perform(lambda report: main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:], report))

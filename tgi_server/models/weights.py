"""Safetensors on disk -> this rank's slices in memory. Files are memory-mapped; only the slice is read."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from tgi_server.errors import ModelError
from tgi_server.layers.parallel import Group
from tgi_server.quantize.base import LinearOp, QuantizeMethod

Span = tuple[int, int]


class Checkpoint:
    """The tensors of a model directory, by name. `report` hears after each read how much has been read, 0 to 1."""

    def __init__(self, directory: Path, report: Callable[[float], None] = lambda fraction: None) -> None:
        self._directory = directory
        self._files: dict[str, Any] = {}
        self._report = report
        self._reads = 0
        for path in _weight_files(directory):
            try:
                file: Any = safe_open(str(path), framework="pt")
            except (OSError, SafetensorError) as error:
                raise ModelError(f"cannot read {path}: {error}") from error
            for name in file.keys():  # noqa: SIM118  (not a dict: iterating the file itself is not supported)
                if name in self._files:
                    raise ModelError(f"{directory}: tensor {name} is in more than one file")
                self._files[name] = file

    def read(self, name: str, axis: int = 0, part: Span | None = None) -> Tensor:
        """Tensor `name`, or only `part` of its `axis`, in the dtype and on the device of the file (CPU)."""
        if name not in self._files:
            raise ModelError(f"{self._directory}: tensor {name} is missing")
        view = self._files[name].get_slice(name)
        start, stop = part if part is not None else (0, view.get_shape()[axis])
        result: Tensor = view[(slice(None),) * axis + (slice(start, stop),)]
        self._reads += 1
        self._report(min(1.0, self._reads / len(self._files)))
        return result


def _weight_files(directory: Path) -> list[Path]:
    """The files the launcher has checked: those an index names, else model.safetensors, else all *.safetensors."""
    index = directory / "model.safetensors.index.json"
    if index.exists():
        return sorted({directory / name for name in json.loads(index.read_text())["weight_map"].values()})
    single = directory / "model.safetensors"
    return [single] if single.exists() else sorted(directory.glob("*.safetensors"))


class WeightLoader:
    """Builds layers from a checkpoint for one rank, with one quantisation method for every linear layer."""

    def __init__(
        self, checkpoint: Checkpoint, quantize: QuantizeMethod, group: Group, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.group = group
        self.dtype = dtype
        self.device = device
        self._checkpoint = checkpoint
        self._quantize = quantize

    def tensor(self, name: str, part: Span | None = None, dtype: torch.dtype | None = None) -> Tensor:
        """Tensor `name` (or rows `part` of it) on the device in the serving dtype, or in `dtype`."""
        return self._placed(self._checkpoint.read(name, 0, part), dtype)

    def column(self, names: Sequence[str], parts: Sequence[Span], bias: bool) -> LinearOp:
        """One layer from several that share their input; of `names[i]` this rank takes outputs `parts[i]`."""
        tensors = {
            suffix: torch.cat([self._slice(f"{n}.{suffix}", axes, "out", p) for n, p in zip(names, parts, strict=True)])
            for suffix, axes in self._quantize.layout().items()
        }
        biases = [self.tensor(f"{n}.bias", p) for n, p in zip(names, parts, strict=True)] if bias else None
        return self._quantize.build(tensors, torch.cat(biases) if biases else None)

    def row(self, name: str, part: Span, bias: bool) -> LinearOp:
        """A layer of whose inputs this rank takes `part`; the ranks' outputs are to be summed (bias on rank 0)."""
        tensors = {
            suffix: self._slice(f"{name}.{suffix}", axes, "in", part)
            for suffix, axes in self._quantize.layout().items()
        }
        add = self.tensor(f"{name}.bias") if bias and self.group.rank == 0 else None
        return self._quantize.build(tensors, add)

    def _slice(self, name: str, axes: tuple[str, ...], along: str, part: Span) -> Tensor:
        if along not in axes:
            return self._placed(self._checkpoint.read(name))
        return self._placed(self._checkpoint.read(name, axes.index(along), part))

    def _placed(self, x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        # .clone() where nothing changes: otherwise the whole file would stay mapped behind a small slice
        moved = x.to(self.device, dtype or self.dtype)
        return moved.clone() if moved.data_ptr() == x.data_ptr() else moved

"""A checkpoint's tensors in transformers' module, through transformers' own rules for old names and joined tensors."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from threading import Lock
from typing import Any

from torch import Tensor

from tgi_server.errors import ModelError
from tgi_server.models.fallback.modules import Attention, Source, registered, told
from tgi_server.models.fallback.spec import FallbackSpec
from tgi_server.models.files import TensorInfo, headers
from tgi_server.models.tensors import condensed, listed
from tgi_server.models.weights import WeightLoader

log = logging.getLogger(__name__)


class Unread:
    """A tensor that is read when it is wanted, as a slice of a safetensors file is."""

    def __init__(self, name: str, info: TensorInfo, load: WeightLoader, turn: Lock) -> None:
        self._name = name
        self._info = info
        self._load = load
        self._turn = turn

    def __getitem__(self, everything: Any) -> Tensor:
        """The whole of it; transformers' threads take turns."""
        with self._turn:
            return self._load.raw(self._name)

    def get_shape(self) -> list[int]:
        """As of a slice."""
        return list(self._info.shape)

    def get_dtype(self) -> str:
        """As of a slice."""
        return self._info.dtype


def loaded(source: Source, spec: FallbackSpec, load: WeightLoader, attention: Attention) -> Any:
    """The module on the device, in the serving dtype. Raises ModelError, naming the tensors, when some are missing."""
    turn = Lock()
    tensors = {name: Unread(name, info, load, turn) for name, info in headers(Path(spec.directory)).items()}
    try:
        module, found = source.model_class.from_pretrained(
            None, config=source.config, state_dict=tensors, dtype=load.needs.dtype, output_loading_info=True,
            attn_implementation=registered(attention), ignore_mismatched_sizes=True,
        )  # fmt: skip
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(f"{spec.directory}: transformers cannot load it: {told(error)}") from error
    if problems := [*_problems(found)]:
        raise ModelError(f"the checkpoint is not as its config.json says: {listed(problems)}")
    if unused := sorted(found["unexpected_keys"]):
        log.warning("%d tensors of the checkpoint are not used: %s", len(unused), ", ".join(condensed(unused)))
    return module.to(load.needs.device).requires_grad_(False).eval()


def _problems(found: Mapping[str, Any]) -> Iterator[str]:
    for name in sorted(found["missing_keys"]):
        yield f"tensor {name} is missing"
    for name, has, wanted in sorted(found["mismatched_keys"]):
        yield f"tensor {name} has the shape {list(has)}, {list(wanted)} was expected"

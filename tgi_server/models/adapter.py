"""LoRA adapters (arXiv:2106.09685) as PEFT saves them: what they change in which tensors of a model. Stdlib only.

What an adapter was trained to be is what counts: the model with the adapter beside it. Where the head is tied to the
token vectors and the adapter changes one of the two, the other stays as it is, and the head gets a matrix of its own.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from tgi_server.errors import FitError, ModelError
from tgi_server.models.adapter_config import WEIGHTS, Config, read_config
from tgi_server.models.description import Description, Shape
from tgi_server.models.files import TensorInfo, tensors
from tgi_server.models.spec import Source
from tgi_server.models.tensors import fits, found, listed
from tgi_server.quantize.base import FLOATS

_PREFIX = "base_model.model."
"""What PEFT puts before the names of the model's own modules."""
_LORA = re.compile(
    r"(?P<module>.+)\.(?P<role>lora_(?:A\.weight|B\.weight|B\.bias|embedding_A|embedding_B|magnitude_vector))"
)
_MAGNITUDE = "lora_magnitude_vector"
_TOKENS = ".token_adapter.trainable_tokens_delta"
"""The end of the name of new vectors for some tokens."""


@dataclass(frozen=True, slots=True)
class Product:
    """`up @ down * scale`, to be added to a matrix; both are names of tensors of the adapter.

    Attributes:
        down: `[rank, in]`.
        up: `[out, rank]`.
        transposed: whether the matrix is `[in, out]`.
        magnitude: `[out]`; each output of the sum is scaled to this length. None where it is left as it is.
    """

    down: str
    up: str
    scale: float
    transposed: bool
    magnitude: str | None = None


@dataclass(frozen=True, slots=True)
class Change:
    """What becomes of one tensor of the model.

    Attributes:
        source: the tensor of the model to begin with, without prefix.
        replacement: the tensor of the adapter to begin with instead.
        rows: a tensor of the adapter, and the rows that its rows take the place of.
        product: added to what that gives.
        vector: a tensor of the adapter, and the factor with which it is added.
    """

    source: str
    replacement: str | None = None
    rows: tuple[str, tuple[int, ...]] | None = None
    product: Product | None = None
    vector: tuple[str, float] | None = None


@dataclass(frozen=True)
class Adapter:
    """An adapter that fits a model.

    Attributes:
        file: holds its tensors.
        spec: the model, with a head of its own where the adapter unties it.
        changes: by the model's tensor, without prefix.
    """

    file: Path
    spec: Description
    changes: Mapping[str, Change]

    def find(self, name: str) -> Change | None:
        """The change of a tensor under the name that it has in the checkpoint."""
        return next((self.changes[key] for key in _bare(name, self.spec) if key in self.changes), None)

    def tensors(self, base: Mapping[str, TensorInfo]) -> dict[str, TensorInfo]:
        """Those of the merged model: with the head that is tied no more."""
        own = {key: found(change.source, self.spec.prefixes, base) for key, change in self.changes.items()
               if change.source != key}  # fmt: skip
        return {**base, **{key: base[source] for key, source in own.items() if source is not None}}


def read(directory: Path, spec: Description) -> Adapter:
    """The adapter in a directory (adapter_config.json, adapter_model.safetensors), for a model.

    Raises:
        ModelError: it cannot be merged.
        FitError: not into this model; names the tensors that do not fit.
    """
    config, file = read_config(directory), directory / WEIGHTS
    if not any(True for _ in spec.tensors()):
        raise ModelError(f"{directory}: adapters of such models are not served; merge it into the weights with PEFT")
    if config.transposed and not any(_sources(spec)):
        raise ModelError(
            f"{directory}: fan_in_fan_out is not served with such models; merge it into the weights with PEFT"
        )
    if not file.is_file():
        raise ModelError(f"{directory} has no {WEIGHTS}")
    plan = _Plan(config, spec, tensors(file))
    changes = plan.changes()
    if plan.problems:
        raise FitError(f"the adapter {directory} does not fit its base model: {listed(plan.problems)}")
    return Adapter(file, spec if plan.head is None else spec.untied(plan.head), changes)


class _Plan:
    """Finds for each tensor of an adapter its place in a model. `problems` collects what has none."""

    def __init__(self, config: Config, spec: Description, own: Mapping[str, TensorInfo]) -> None:
        self.problems: list[str] = []
        self.head: str | None = None
        self._config, self._spec, self._own = config, spec, own
        self._wanted: dict[str, Shape] = dict(spec.tensors())
        self._transposed = {f"{source.name}.weight" for source in _sources(spec) if source.transposed}
        self._found: dict[str, Change] = {}

    def changes(self) -> dict[str, Change]:
        modules: dict[str, dict[str, str]] = defaultdict(dict)
        for name, info in self._own.items():
            bare = name.removeprefix(_PREFIX).replace(f"{_MAGNITUDE}.weight", _MAGNITUDE)
            if not name.startswith(_PREFIX):
                self._strange(name)
            elif info.dtype not in FLOATS:
                self.problems.append(f"tensor {name} is of the type {info.dtype}; {', '.join(FLOATS)} are served")
            elif match := _LORA.fullmatch(bare):
                modules[match["module"]][match["role"]] = name
            elif bare.endswith(_TOKENS):
                self._replace_rows(bare.removesuffix(_TOKENS), name)
            else:
                self._replace(bare.replace(".base_layer.", "."), name)
        for module, roles in modules.items():
            self._add(module, roles)
        self._untie()
        return self._found

    def _replace(self, target: str, name: str) -> None:
        key = self._key(target)
        if key is None:
            self._strange(name)
        elif self._fits(name, self._own[name].shape, key):
            self._change(key, replacement=name)

    def _replace_rows(self, module: str, name: str) -> None:
        key, indices = self._key(f"{module}.weight"), self._config.tokens_of(module)
        if key is None or indices is None:
            self._strange(name)
            return
        rows, *columns = self._wanted[key]
        if self._own[name].shape == (len(indices), *columns) and max(indices, default=0) < rows:
            self._change(key, rows=(name, indices))
        else:
            self.problems.append(f"tensor {name} {list(self._own[name].shape)} has no rows for the tokens {indices}")

    def _add(self, module: str, roles: Mapping[str, str]) -> None:
        embedding = "lora_embedding_A" in roles or "lora_embedding_B" in roles
        names = ("lora_embedding_A", "lora_embedding_B") if embedding else ("lora_A.weight", "lora_B.weight")
        dora = [_MAGNITUDE] if self._config.magnitudes else []
        if missing := [name for name in (*names, *dora) if name not in roles]:
            self.problems.append(f"tensor {_PREFIX}{module}.{missing[0]} is missing")
            return
        down, up = (roles[name] for name in names)
        key = self._key(f"{module}.weight")
        if key is None:
            self._strange(down, up)
            return
        transposed, magnitude = embedding or key in self._transposed, roles.get(_MAGNITUDE)
        if magnitude and not (dora and self._own[magnitude].shape == self._own[up].shape[:1]):
            self._strange(magnitude)
        elif self._product_fits(down, up, key, transposed, self._config.rank_of(module)):
            self._change(key, product=Product(down, up, self._config.scale(module), transposed, magnitude))
        if bias := roles.get("lora_B.bias"):
            self._add_vector(module, bias)

    def _add_vector(self, module: str, name: str) -> None:
        key = self._key(f"{module}.bias")
        if key is None:
            self._strange(name)
        elif self._fits(name, self._own[name].shape, key):
            self._change(key, vector=(name, self._config.scale(module)))

    def _untie(self) -> None:
        """Give the head a matrix of its own where it and the token vectors part; single new vectors are for both."""
        own = self._found.get(self._spec.tied) if self._spec.tied else None
        if self.head or (own is not None and replace(own, rows=None) != Change(own.source)):
            self.head = self.head or "lm_head"
            self._change(f"{self.head}.weight", rows=own and own.rows)

    def _change(self, key: str, **what: Any) -> None:
        source = self._spec.tied if self._spec.tied and key == f"{self.head}.weight" else key
        self._found[key] = replace(self._found.get(key) or Change(source), **what)

    def _key(self, target: str) -> str | None:
        """The model's own name of a tensor; None when it has none."""
        keys = [key for key in _bare(target, self._spec) if key in self._wanted]
        module, _, kind = target.rpartition(".")
        if keys and (end := self._spec.inseparable) and f".{keys[0]}".endswith(f".{end}"):
            self.problems.append(f"{keys[0]} is the head, too, from which an adapter's token vectors cannot part here")
        if not keys and self._spec.tied and kind == "weight" and "." not in module and self.head in (None, module):
            # beside the decoder there is nothing but the head, which is tied and therefore not in the checkpoint
            self.head = module
            self._wanted[target] = self._wanted[self._spec.tied]
            keys = [target]
        return keys[0] if keys else None

    def _product_fits(self, down: str, up: str, key: str, transposed: bool, rank: int) -> bool:
        inputs, outputs = self._own[down].shape, self._own[up].shape
        if len(inputs) != 2 or len(outputs) != 2 or inputs[0] != rank or outputs[1] != rank:
            self.problems.append(
                f"tensors {down} {list(inputs)} and {up} {list(outputs)} are no matrices of the rank {rank}"
            )
            return False
        shape = (inputs[1], outputs[0]) if transposed else (outputs[0], inputs[1])
        return self._fits(f"{down} with {up}", shape, key)

    def _fits(self, name: str, shape: Shape, key: str) -> bool:
        wanted = self._wanted[key]
        if fits(shape, key, wanted, self._spec):
            return True
        self.problems.append(f"tensor {name} changes {list(shape)} numbers of {key}, which has {list(wanted)}")
        return False

    def _strange(self, *names: str) -> None:
        self.problems += [f"the model has no place for tensor {name}" for name in names]


def _bare(name: str, spec: Description) -> list[str]:
    """A name without each of the prefixes that it may have."""
    return [name.removeprefix(prefix) for prefix in (*spec.prefixes, "") if name.startswith(prefix)]


def _sources(part: object) -> Iterator[Source]:
    """All linear layers of a description, or of a part of it."""
    if isinstance(part, Source):
        yield part
    elif isinstance(part, tuple):
        for item in part:
            yield from _sources(item)
    elif is_dataclass(part):
        for entry in fields(part):
            yield from _sources(getattr(part, entry.name))

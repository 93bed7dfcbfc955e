"""LoRA adapters (arXiv:2106.09685) as PEFT saves them: what they change in which tensors of a model. Stdlib only.

What an adapter was trained to be is what counts: the model with the adapter beside it. Where the head is tied to the
token vectors and the adapter changes one of the two, the other stays as it is, and the head gets a matrix of its own.
"""

from __future__ import annotations

import json
import math
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from tgi_server.errors import ModelError
from tgi_server.models.description import Description, Shape
from tgi_server.models.files import TensorInfo, json_object, tensors
from tgi_server.models.spec import Source
from tgi_server.models.tensors import FLOATS, fits, found, listed

CONFIG, WEIGHTS, PICKLE = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"

_N = TypeVar("_N", int, float)
_PREFIX = "base_model.model."
"""What PEFT puts before the names of the model's own modules."""
_LORA = re.compile(r"(?P<module>.+)\.(?P<role>lora_(?:A\.weight|B\.weight|B\.bias|embedding_A|embedding_B))")
_TASKS = ("CAUSAL_LM", "SEQ_2_SEQ_LM", None)
_HARMLESS = {
    "alpha_pattern", "auto_mapping", "base_model_name_or_path", "bias", "corda_config", "ensure_weight_tying",
    "eva_config", "exclude_modules", "fan_in_fan_out", "inference_mode", "init_lora_weights", "layers_pattern",
    "layers_to_transform", "loftq_config", "lora_alpha", "lora_bias", "lora_dropout", "lora_ga_config",
    "megatron_core", "modules_to_save", "peft_type", "peft_version", "qalora_group_size", "r", "rank_pattern",
    "revision", "runtime_config", "target_modules", "task_type", "use_rslora",
}  # fmt: skip
"""Entries that are read here, or that the tensors of the adapter tell by themselves, or that matter in training only.
With any other the product of two matrices may not be all that is to be added."""
_OTHER_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""Ways to begin the training that change the model's own weights."""


@dataclass(frozen=True, slots=True)
class Product:
    """`up @ down * scale`, to be added to a matrix; both are names of tensors of the adapter.

    Attributes:
        down: `[rank, in]`.
        up: `[out, rank]`.
        transposed: whether the matrix is `[in, out]`.
    """

    down: str
    up: str
    scale: float
    transposed: bool


@dataclass(frozen=True, slots=True)
class Change:
    """What becomes of one tensor of the model.

    Attributes:
        source: the tensor of the model to begin with, without prefix.
        replacement: the tensor of the adapter to begin with instead.
        product: added to it.
        vector: a tensor of the adapter, and the factor with which it is added.
    """

    source: str
    replacement: str | None = None
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


@dataclass(frozen=True)
class Config:
    """adapter_config.json. `alphas` and `ranks` are by patterns that the end of a module's name matches."""

    base: str
    revision: str | None
    rank: int
    alpha: float
    ranks: Mapping[str, int] = field(default_factory=dict)
    alphas: Mapping[str, float] = field(default_factory=dict)
    rank_stabilized: bool = False

    def rank_of(self, module: str) -> int:
        """Of the two matrices of a module."""
        return _matching(self.ranks, module, self.rank)

    def scale(self, module: str) -> float:
        """Of their product; divided by the root of the rank where that is the way (arXiv:2312.03732)."""
        rank, alpha = self.rank_of(module), _matching(self.alphas, module, self.alpha)
        return alpha / (math.sqrt(rank) if self.rank_stabilized else rank)


class FitError(ModelError):
    """An adapter is not for this model."""


def is_adapter(directory: Path) -> bool:
    """Whether a directory holds an adapter instead of a model."""
    return (directory / CONFIG).is_file()


def read_config(directory: Path) -> Config:
    """What adapter_config.json says; raises ModelError for an adapter that cannot be merged into weights."""
    path = directory / CONFIG
    entries = json_object(path)
    if problems := list(_unserved(entries)):
        raise ModelError(f"{path}: {'; '.join(problems)}")
    try:
        config = Config(
            _text(entries, "base_model_name_or_path"),
            _text(entries, "revision") if entries.get("revision") is not None else None,
            _number("r", entries.get("r", 8), whole=True),
            _number("lora_alpha", entries.get("lora_alpha", 8)),
            _patterns(entries, "rank_pattern", whole=True),
            _patterns(entries, "alpha_pattern"),
            bool(entries.get("use_rslora")),
        )
    except ValueError as error:
        raise ModelError(f"{path}: {error}") from None
    return config


def read(directory: Path, spec: Description) -> Adapter:
    """The adapter in a directory (adapter_config.json, adapter_model.safetensors), for a model.

    Raises:
        ModelError: it cannot be merged.
        FitError: not into this model; names the tensors that do not fit.
    """
    config, file = read_config(directory), directory / WEIGHTS
    if not any(True for _ in spec.tensors()):
        raise ModelError(f"{directory}: adapters of such models are not served; merge it into the weights with PEFT")
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
            bare = name.removeprefix(_PREFIX)
            if bare == name:
                self._strange(name)
            elif info.dtype not in FLOATS:
                self.problems.append(f"tensor {name} is of the type {info.dtype}; {', '.join(FLOATS)} are served")
            elif match := _LORA.fullmatch(bare):
                modules[match["module"]][match["role"]] = name
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

    def _add(self, module: str, roles: Mapping[str, str]) -> None:
        embedding = "lora_embedding_A" in roles or "lora_embedding_B" in roles
        names = ("lora_embedding_A", "lora_embedding_B") if embedding else ("lora_A.weight", "lora_B.weight")
        if missing := [name for name in names if name not in roles]:
            self.problems.append(f"tensor {_PREFIX}{module}.{missing[0]} is missing")
            return
        down, up = (roles[name] for name in names)
        key = self._key(f"{module}.weight")
        if key is None:
            self._strange(down, up)
            return
        transposed = embedding or key in self._transposed
        if self._product_fits(down, up, key, transposed, self._config.rank_of(module)):
            self._change(key, product=Product(down, up, self._config.scale(module), transposed))
        if bias := roles.get("lora_B.bias"):
            self._add_vector(module, bias)

    def _add_vector(self, module: str, name: str) -> None:
        key = self._key(f"{module}.bias")
        if key is None:
            self._strange(name)
        elif self._fits(name, self._own[name].shape, key):
            self._change(key, vector=(name, self._config.scale(module)))

    def _untie(self) -> None:
        """Give the head a matrix of its own where it and the token vectors part."""
        if self._spec.tied and (self.head or self._spec.tied in self._found):
            self.head = self.head or "lm_head"
            self._change(f"{self.head}.weight")

    def _change(self, key: str, **what: Any) -> None:
        source = self._spec.tied if self._spec.tied and key == f"{self.head}.weight" else key
        self._found[key] = replace(self._found.get(key) or Change(source), **what)

    def _key(self, target: str) -> str | None:
        """The model's own name of a tensor; None when it has none."""
        keys = [key for key in _bare(target, self._spec) if key in self._wanted]
        module, _, kind = target.rpartition(".")
        if not keys and self._spec.tied and kind == "weight" and "." not in module:
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


def _unserved(entries: Mapping[str, Any]) -> Iterator[str]:
    """What cannot be merged."""
    if (kind := entries.get("peft_type")) != "LORA":
        yield f"peft_type={kind} is not served; LORA is"
        return
    if entries.get("task_type") not in _TASKS:
        yield f"task_type={entries['task_type']} is not served; CAUSAL_LM and SEQ_2_SEQ_LM are"
    for name, value in entries.items():
        if name not in _HARMLESS and value not in (None, False, 0, "", [], {}):
            yield f"{name}={json.dumps(value)[:60]} is not served: such an adapter is no plain sum with the weights"
    begun = entries.get("init_lora_weights")
    if isinstance(begun, str) and begun.lower().startswith(_OTHER_BASE):
        yield (
            f"init_lora_weights={begun} has changed the weights of the base model, too; save the adapter converted "
            "to plain LoRA (path_initial_model_for_weight_conversion)"
        )


def _matching(patterns: Mapping[str, _N], module: str, default: _N) -> _N:
    """The value of the first pattern that the module's name, or its end after a dot, matches."""
    return next((value for key, value in patterns.items() if re.match(rf"(.*\.)?({key})$", module)), default)


def _text(entries: Mapping[str, Any], name: str) -> str:
    value = entries.get(name)
    if not isinstance(value, str) or not value:
        raise ValueError(f"{name}={json.dumps(value)[:60]} (text is expected)")
    return value


def _number(name: str, value: Any, whole: bool = False) -> Any:
    if isinstance(value, bool) or not isinstance(value, int if whole else int | float) or not 0 <= value < math.inf:
        raise ValueError(f"{name}={json.dumps(value)[:60]} (a number is expected)")
    if whole and value == 0:
        raise ValueError(f"{name}=0 (at least 1 is expected)")
    return value


def _patterns(entries: Mapping[str, Any], name: str, whole: bool = False) -> dict[str, Any]:
    patterns = entries.get(name) or {}
    if not isinstance(patterns, dict):
        raise ValueError(f"{name}={json.dumps(patterns)[:60]} (an object is expected)")
    for key, value in patterns.items():
        _number(f"{name}[{key!r}]", value, whole)
        try:
            re.compile(key)
        except re.error:
            raise ValueError(f"{name} has {key!r}, which is no pattern") from None
    return patterns

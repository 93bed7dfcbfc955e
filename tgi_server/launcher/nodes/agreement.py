"""What nodes that serve one model have to agree about, and where two of them do not."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import tgi_server
from tgi_server.config import options
from tgi_server.config.describe import shown
from tgi_server.config.schema import DType, ServerConfig, TelemetryOptions
from tgi_server.launcher.origin import Model
from tgi_server.models.files import SAFETENSORS

Facts = Mapping[str, str]
"""What is agreed about, by name."""

_OWN = {
    *(field.name for field in fields(TelemetryOptions)),
    "model_id", "revision", "huggingface_hub_cache", "weights_cache_override", "conversion_cache",
    "shard_uds_path", "cuda_memory_fraction", "master_addr", "node_rank", "node_timeout",
    "num_shard", "sharded", "dtype",
}  # fmt: skip
"""Options that shards read and each node has for itself, or that others of the facts stand for."""
_TOGETHER = ("shutdown_timeout",)
"""Options of no shard, by which all nodes do something together."""
_NONE = "missing"
_SAMPLES, _SAMPLE = 16, 1 << 16
"""Places of a large file that are compared, and bytes of each."""
_DECISIVE = ("config.json", "adapter_config.json", SAFETENSORS.index_file)
"""Files that have to be equal in every byte."""


def of_options(config: ServerConfig, num_shard: int, dtype: DType, gpu: bool) -> Facts:
    """What is known before there is a model."""
    names = (name for name in options.values(config, whole=True) if "shard" in options.concerns(name))
    values = options.values(config, whole=True)
    facts = {name: shown(values[name]) for name in names if name not in _OWN}
    facts |= {name: shown(values[name]) for name in _TOGETHER}
    facts |= {
        "device": "gpu" if gpu else "cpu",
        "num_shard": str(num_shard),
        "dtype": dtype.name,
        "version of tgi_server": tgi_server.__version__,
    }
    try:
        return facts | {"version of torch": version("torch")}
    except PackageNotFoundError:
        return facts


def of_files(model: Model) -> Facts:
    """What the files of a model say of it: all bytes of the small ones, of the large ones how large they are, and some
    bytes of them."""
    facts = {}
    for directory in filter(None, (model.directory, model.adapter, model.heads)):
        for path in sorted(directory.iterdir()):
            if path.name in _DECISIVE:
                facts[path.name] = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
            elif path.match(SAFETENSORS.several):
                facts[path.name] = f"{path.stat().st_size} bytes ({_sampled(path)})"
    return facts


def _sampled(path: Path) -> str:
    """A digest of bytes here and there, from the first to the last."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        last = max(0, path.stat().st_size - _SAMPLE)
        for sample in range(_SAMPLES):
            file.seek(last * sample // (_SAMPLES - 1))
            digest.update(file.read(_SAMPLE))
    return digest.hexdigest()[:16]


def differences(first: Facts, other: Facts, node: int) -> str | None:
    """In words, where a node does not agree with node 0; None where it does."""
    names = [name for name in {**first, **other} if first.get(name) != other.get(name)]
    told = (f"{name} is {first.get(name, _NONE)} on node 0, {other.get(name, _NONE)} on node {node}" for name in names)
    return "; ".join(told) or None

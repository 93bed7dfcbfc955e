"""The architectures of GGUF, one file each: `names` as `general.architecture` has them, and `describe(file)`.

An architecture is found by being here; nothing else names it. What the converters do to tensors is llama.cpp's
(github.com/ggml-org/llama.cpp, convert_hf_to_gguf.py).
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from functools import cache

from tgi_server.launcher.gguf.architecture import Model
from tgi_server.launcher.gguf.reader import GgufFile

Describe = Callable[[GgufFile], Model]


@cache
def architectures() -> Mapping[str, Describe]:
    """`general.architecture` -> what describes such files."""
    found: dict[str, Describe] = {}
    for module in pkgutil.iter_modules(__path__):
        architecture = importlib.import_module(f"{__name__}.{module.name}")
        found |= dict.fromkeys(architecture.names, architecture.describe)
    return found

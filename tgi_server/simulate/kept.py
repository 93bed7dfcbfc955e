"""Files of what was measured, so that it is measured once for each set of options that makes a difference."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

import msgspec

from tgi_server.config import options
from tgi_server.config.describe import shown
from tgi_server.config.schema import ServerConfig, TelemetryOptions
from tgi_server.errors import ConfigError
from tgi_server.simulate.costs import Loaded, Overheads
from tgi_server.simulate.findings import Findings

_NO_MATTER = {field.name for field in fields(TelemetryOptions)} | {"shard_uds_path", "master_addr", "master_port"}
"""Options that shards read, but that change nothing in how long steps take."""


@dataclass(frozen=True)
class Learned:
    """All that a simulation needs to know of a machine and a model.

    Attributes:
        options: that it was learned with, see `decisive`.
        findings: what steps take, alone.
        loaded: what they take while clients are served.
        overheads: what passes around them.
    """

    options: Mapping[str, str]
    findings: Findings
    loaded: Loaded
    overheads: Overheads

    def write(self, path: Path) -> None:
        """Raises ConfigError where that cannot be done."""
        try:
            path.write_bytes(msgspec.json.format(msgspec.json.encode(self), indent=1))
        except OSError as error:
            raise ConfigError(f"costs={path}: cannot be written ({error.strerror})") from None

    @classmethod
    def read(cls, path: Path, config: ServerConfig) -> Learned:
        """What `write` wrote. Raises ConfigError for another file, or what was learned with other options."""
        try:
            learned = msgspec.json.decode(path.read_bytes(), type=cls)
        except OSError as error:
            raise ConfigError(f"costs={path}: cannot be read ({error.strerror})") from None
        except msgspec.DecodeError as error:
            raise ConfigError(f"costs={path}: not a file of costs ({error})") from None
        wanted = decisive(config)
        if other := [name for name in {**wanted, **learned.options} if wanted.get(name) != learned.options.get(name)]:
            name = other[0]
            was = learned.options.get(name, "not there")
            raise ConfigError(f"costs={path}: measured with {name}={was}, not {wanted.get(name, 'without it')}")
        return learned


def decisive(config: ServerConfig) -> dict[str, str]:
    """The options that steps depend on, as they are written."""
    every: Mapping[str, Any] = options.values(config, whole=True)
    return {name: shown(value) for name, value in every.items() if _matters(name)}


@cache
def _matters(name: str) -> bool:
    return name not in _NO_MATTER and "shard" in options.concerns(name)


def place(directory: Path, config: ServerConfig) -> Path:
    """Where in a directory these options' file is, or would be."""
    text = json.dumps(sorted(decisive(config).items()))
    return directory / f"costs-{hashlib.sha256(text.encode()).hexdigest()[:12]}.json"

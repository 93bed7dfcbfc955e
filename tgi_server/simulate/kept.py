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

from tgi_server.cache.kinds import without_effect
from tgi_server.config import options
from tgi_server.config.describe import shown
from tgi_server.config.schema import ServerConfig, TelemetryOptions
from tgi_server.errors import ConfigError
from tgi_server.simulate.costs import Loaded, Overheads
from tgi_server.simulate.findings import Findings

_NO_MATTER = {field.name for field in fields(TelemetryOptions)} | {
    "shard_uds_path", "master_addr", "master_port", "preallocate_cache",
}  # fmt: skip
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
    def of(cls, path: Path) -> Learned:
        """What `write` wrote. Raises ConfigError for another file."""
        try:
            return msgspec.json.decode(path.read_bytes(), type=cls)
        except OSError as error:
            raise ConfigError(f"costs={path}: cannot be read ({error.strerror})") from None
        except msgspec.DecodeError as error:
            raise ConfigError(f"costs={path}: not a file of costs ({error})") from None

    @classmethod
    def read(cls, path: Path, config: ServerConfig) -> Learned:
        """As `of`; raises ConfigError for what was learned with other options, too."""
        learned = cls.of(path)
        if (name := learned.misfit(config)) is not None:
            was, wanted = learned.options.get(name, "not there"), decisive(config).get(name, "without it")
            raise ConfigError(f"costs={path}: measured with {name}={was}, not {wanted}")
        return learned

    def misfit(self, config: ServerConfig) -> str | None:
        """An option that makes a difference to this model's shards and was another one; None where all fits."""
        unread = without_effect(group.kind for group in self.findings.info.groups)
        was, wanted = self.options, decisive(config)
        different = (name for name in {**wanted, **was} if wanted.get(name) != was.get(name) and name not in unread)
        return next(different, None)


def decisive(config: ServerConfig) -> dict[str, str]:
    """The options that steps depend on, as they are written."""
    every: Mapping[str, Any] = options.values(config, whole=True)
    return {name: shown(value) for name, value in every.items() if _matters(name)}


@cache
def _matters(name: str) -> bool:
    return name not in _NO_MATTER and "shard" in options.concerns(name)


def place(directory: Path, config: ServerConfig, exact: bool = False) -> Path:
    """Where in a directory these options' file is, or would be.

    Args:
        exact: of these and no others; else options that make no difference to most models make none here.
    """
    unread = set[str]() if exact else without_effect(())
    text = json.dumps(sorted(item for item in decisive(config).items() if item[0] not in unread))
    return directory / f"costs-{hashlib.sha256(text.encode()).hexdigest()[:12]}.json"

"""Environment variables that set options, and those that only look like it."""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Iterator, Mapping

from tgi_server.config import files
from tgi_server.config.arguments import Arguments
from tgi_server.config.options import TYPES, inner_type
from tgi_server.config.schema import ServerConfig, without_variable

_SAGEMAKER = {
    "HF_MODEL_ID": "model_id",
    "HF_MODEL_REVISION": "revision",
    "SM_NUM_GPUS": "num_shard",
    "HF_MODEL_QUANTIZE": "quantize",
    "HF_MODEL_TRUST_REMOTE_CODE": "trust_remote_code",
}
"""Variables that a SageMaker endpoint sets, and what they mean. Not interpolations in that deployment's YAML, because
a choice (quantize) cannot be one."""


def read(arguments: Arguments, environ: Mapping[str, str]) -> None:
    """Add the variables whose option the command line does not set; it would win over them anyway.

    Raises:
        UsageError: a variable holds something that its option cannot be.
    """
    for variable, name in [*_own(), *_of_the_deployment(arguments)]:
        if variable not in environ or name in arguments.origins:
            continue
        text = environ[variable]
        reason = _not_meant_for_us(name, text)
        if reason:
            arguments.warnings.append(f"environment variable {variable}={text} is ignored: {reason}")
        else:
            arguments.set(name, text, f"environment variable {variable}")


def _own() -> Iterator[tuple[str, str]]:
    """The variable of each option or part that has one, and its name."""
    parts = ServerConfig.__dataclass_fields__.keys() & files.groups().keys()
    excluded = without_variable()
    return ((name.upper(), name) for name in [*TYPES, *sorted(parts)] if name not in excluded)


def _of_the_deployment(arguments: Arguments) -> list[tuple[str, str]]:
    chosen = [override for override in arguments.overrides if override.startswith("deployment=")]
    return list(_SAGEMAKER.items()) if chosen[-1:] == ["deployment=sagemaker"] else []


def _not_meant_for_us(name: str, text: str) -> str | None:
    """Why a variable that container platforms set for their own purposes is no option."""
    if inner_type(TYPES.get(name)) is int and re.match(r"(tcp|udp|sctp)://", text):
        return "it is the address of a Kubernetes service, not a port"
    if name == "hostname" and not _bindable(text):
        return "it is no address of this machine"
    return None


def _bindable(address: str) -> bool:
    try:
        family = socket.AF_INET6 if ipaddress.ip_address(address).version == 6 else socket.AF_INET
        with socket.socket(family) as probe:
            probe.bind((address, 0))
    except (ValueError, OSError):
        return False
    return True

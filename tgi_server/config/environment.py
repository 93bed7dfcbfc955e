"""Environment variables that set options, and those that only look like it."""

from __future__ import annotations

import difflib
import ipaddress
import re
import socket
from collections.abc import Collection, Iterator, Mapping

from tgi_server.config import files, later
from tgi_server.config.arguments import Arguments
from tgi_server.config.options import TYPES
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

_LONG = 10
"""Letters of a variable's name from which on it hardly resembles another by chance."""
_ALIKE = 0.9


def read(arguments: Arguments, environ: Mapping[str, str]) -> None:
    """Add the variables whose option the command line does not set; it would win over them anyway.

    An empty one counts as unset. What a variable's option cannot be is put into the arguments' `problems`.
    """
    known = {**dict(_own()), **dict(_of_the_deployment(arguments))}
    known |= {name.upper(): name for name in later.rows() if name.upper() not in known}
    for variable, name in known.items():
        text = environ.get(variable)
        if text and name not in arguments.origins:
            with arguments.collecting():
                _take(arguments, variable, name, text)
    if environ.get("HF_MODEL_ID") and not {"model_id", "model", "deployment"} & arguments.origins.keys():
        arguments.problems.append("environment variable HF_MODEL_ID is read with deployment=sagemaker only: give that")
    arguments.suspects += _misspelled(known, environ)


def _take(arguments: Arguments, variable: str, name: str, text: str) -> None:
    origin, reason = f"environment variable {variable}", _not_meant_for_us(name, text)
    if reason:
        arguments.warnings.append(f"{origin}={text} is ignored: {reason}")
    elif not later.put(arguments, name, text, origin):
        arguments.set(name, text, origin)


def _misspelled(known: Collection[str], environ: Mapping[str, str]) -> Iterator[str]:
    """A line for each variable that is not read, but hardly differs from one that is; short names are anybody's."""
    for variable in environ:
        long = len(variable) >= _LONG and "_" in variable
        matches = difflib.get_close_matches(variable, known, n=1, cutoff=_ALIKE) if long else []
        if matches and variable not in known:
            yield f"environment variable {variable} is not read (did you mean {matches[0]}?)"


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
    if re.search(r"(^|_)port$", name) and re.match(r"(tcp|udp|sctp)://", text):
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

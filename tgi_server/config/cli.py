"""Command line and environment to Hydra overrides. One name has three spellings.

`--max-input-length 10`, `MAX_INPUT_LENGTH=10` in the environment and the plain override `max_input_length=10` all set
the same option; texts arrive unharmed whatever characters they hold. The command line wins over the environment, and
of two mentions on the command line the later one wins.
"""

from __future__ import annotations

import ipaddress
import os
import re
import socket
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from tgi_server.config import files
from tgi_server.config.describe import TYPES, expectation, inner_type, is_optional, nearest, refused
from tgi_server.config.schema import ServerConfig, without_variable
from tgi_server.errors import UsageError

_BOOLEANS = {"true": "true", "1": "true", "false": "false", "0": "false"}
_SHORT = {"-p": "--port", "-h": "--help", "-V": "--version"}
_SHORT |= {"-c": "--cfg", "-cd": "--config-dir", "-cn": "--config-name"}  # as Hydra has them
_FROM_HYDRA = ("config-dir", "config-name", "cfg")
_COMMAND_LINE = "command line"


@dataclass
class Arguments:
    """What the operator asked for, ready for `config.load.compose`.

    `origins` tells for each option or group where its value was written. `show` is set when something is to be
    printed instead of serving: `help`, `version` or `config`.
    """

    overrides: list[str] = field(default_factory=list)
    origins: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    config_dir: str | None = None
    config_name: str = "config"
    show: str | None = None

    def set(self, name: str, text: str, origin: str) -> None:
        """Give an option or a group a value that is meant literally."""
        self.origins[name] = origin
        self.overrides.append(_override(name, text, origin))


def parse(argv: Sequence[str], environ: Mapping[str, str] = os.environ) -> Arguments:
    """Read the arguments after the program's name, and the environment.

    Raises:
        UsageError: an argument cannot be understood.
    """
    arguments = Arguments()
    tokens = deque(argv)
    while tokens:
        token = tokens.popleft()
        if token.startswith("-"):
            _read_flag(arguments, token, tokens)
        else:
            _read_override(arguments, token)
    if arguments.show not in ("help", "version"):
        _read_environment(arguments, environ)
    return arguments


def quote(text: str) -> str:
    """The text as a value in Hydra's override grammar that reads as exactly this text."""
    text = re.sub(r"(\\*)\$\{", r"\1\1\\${", text)  # OmegaConf: not an interpolation
    text = re.sub(r"(\\*)('|\Z)", lambda match: match[1] * 2 + match[2].replace("'", r"\'"), text)
    return f"'{text}'"


def _variables() -> Iterator[tuple[str, str]]:
    """Name of each option or part that has an environment variable, and that variable."""
    parts = ServerConfig.__dataclass_fields__.keys() & files.groups().keys()
    excluded = without_variable()
    return ((name, name.upper()) for name in [*TYPES, *sorted(parts)] if name not in excluded)


def _read_environment(arguments: Arguments, environ: Mapping[str, str]) -> None:
    """Add the variables whose option the command line does not set; it would win over them anyway."""
    for name, variable in _variables():
        if variable not in environ or name in arguments.origins:
            continue
        reason = _not_meant_for_us(name, environ[variable])
        if reason:
            arguments.warnings.append(f"environment variable {variable}={environ[variable]} is ignored: {reason}")
        else:
            arguments.set(name, environ[variable], f"environment variable {variable}")


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


def _read_flag(arguments: Arguments, token: str, tokens: deque[str]) -> None:
    flag, equals, text = token.partition("=")
    if re.match(r"-p\d", token):  # -p8080
        flag, equals, text = "-p", "=", token[2:]
    flag = _SHORT.get(flag, flag)
    name = flag[2:].replace("-", "_")
    if flag in ("--help", "--version"):
        arguments.show = arguments.show or flag[2:]
        return
    if flag not in _flags():
        raise UsageError(f"unknown option {flag}" + nearest(flag[2:].replace("_", "-"), _names(), "--"))
    if not equals:
        text = _following_value(flag, name, tokens)
    if flag[2:] not in _FROM_HYDRA:
        arguments.set(name, text, flag)
    elif flag != "--cfg":
        setattr(arguments, name, text)
    elif text == "job":
        arguments.show = arguments.show or "config"
    else:
        raise UsageError(f"--cfg={text}: expected job")


def _names() -> list[str]:
    return [name.replace("_", "-") for name in [*TYPES, *files.groups()]] + [*_FROM_HYDRA, "help", "version"]


def _flags() -> set[str]:
    return {f"--{name}" for name in _names()}


def _following_value(flag: str, name: str, tokens: deque[str]) -> str:
    if TYPES.get(name) is bool:
        return tokens.popleft() if tokens and tokens[0].lower() in _BOOLEANS else "true"
    if not tokens or re.match(r"--?[A-Za-z]", tokens[0]):
        raise UsageError(f"{flag} needs a value")
    return tokens.popleft()


def _read_override(arguments: Arguments, token: str) -> None:
    key, equals, text = token.partition("=")
    if not equals and not token.startswith("~"):
        raise UsageError(f"unexpected argument {token}: options are written --name VALUE or name=VALUE")
    name = key.lstrip("+~")
    if re.match(r"hydra\b", name):
        raise UsageError(f"{key} sets up Hydra itself, which has no settings here")
    if key in files.groups() or (key in TYPES and _is_literal(key, text)):
        arguments.set(key, text, _COMMAND_LINE)
    else:
        arguments.origins[name] = _COMMAND_LINE
        arguments.overrides.append(token)


def _is_literal(name: str, text: str) -> bool:
    """False when the value of an option uses Hydra's grammar: null, quotes, an interpolation."""
    quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "'\""
    return not (quoted or "${" in text or (text == "null" and is_optional(TYPES[name])))


def _override(name: str, text: str, origin: str) -> str:
    if not text:
        raise UsageError(refused(name, text, "may not be empty", origin))
    if name not in TYPES:
        if text == "null" or not re.fullmatch(r"[\w.-]+", text):
            raise UsageError(refused(name, text, "expected the name of a choice", origin))
        return f"{name}={text}"
    if inner_type(TYPES[name]) is not bool:
        return f"{name}={quote(text)}"
    if text.lower() not in _BOOLEANS:
        raise UsageError(refused(name, text, f"expected {expectation(bool)}", origin))
    return f"{name}={_BOOLEANS[text.lower()]}"

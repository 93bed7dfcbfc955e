"""Command line and environment to Hydra overrides. One name has three spellings.

`--max-input-length 10`, `MAX_INPUT_LENGTH=10` in the environment and the plain override `max_input_length=10` all set
the same option; texts arrive unharmed whatever characters they hold. The command line wins over the environment, and
of two mentions on the command line the later one wins; the flag of a list adds to it. A name that is no option but a
field of a job means that field: `clients=8` is short for `job.clients=8`; `slo.ttft_p95_ms=500` is another way to write
`job.slo_ttft_p95_ms=500`.
"""

from __future__ import annotations

import os
import re
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tgi_server.config import environment, files, later, options, parts
from tgi_server.config.arguments import BOOLEANS, Arguments
from tgi_server.config.describe import nearest
from tgi_server.config.options import TYPES, is_list, is_optional
from tgi_server.errors import UsageError

_SHORT = {"-p": "--port", "-g": "--graceful-termination-timeout", "-e": "--env", "-V": "--version"}
_SHORT |= {"-c": "--cfg", "-cd": "--config-dir", "-cn": "--config-name", "-m": "--multirun"}  # as Hydra has them
_SHORT |= {"-i": "--info", "-sc": "--shell-completion"}
_SWITCHES: Mapping[str, Callable[[Arguments], None]] = {
    "-h": lambda arguments: _show(arguments, "summary"),
    "--help": lambda arguments: _show(arguments, "help"),
    "--version": lambda arguments: _show(arguments, "version"),
    "--env": lambda arguments: setattr(arguments, "report", True),
    "--multirun": lambda _: None,  # `parse` looked for it
    "--resolve": lambda arguments: setattr(arguments, "resolve", True),
}
"""What flags without a value do."""
_HYDRA = ("--config-dir", "--config-name", "--cfg", "--info", "--shell-completion")
"""Flags with a value that set no option."""
_CFG = ("job", "hydra", "all")
_INFO = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")
_COMMAND_LINE = "command line"


def parse(argv: Sequence[str], environ: Mapping[str, str] = os.environ) -> Arguments:
    """Read the arguments after the program's name, and the environment.

    What cannot be understood is among the `problems` of what is returned, and raised when that is composed.

    Raises:
        UsageError: an argument cannot be understood, where none will be composed (`--help`).
    """
    arguments = Arguments(multirun=not {"-m", "--multirun"}.isdisjoint(argv))  # it changes what commas mean
    tokens = deque(argv)
    while tokens:
        token = tokens.popleft()
        with arguments.collecting():
            if token.startswith("-"):
                _read_flag(arguments, token, tokens)
            else:
                _read_override(arguments, token)
    with arguments.collecting():
        _check_combination(arguments)
    if arguments.show in ("summary", "help", "version") or "--shell-completion" in arguments.hydra:
        arguments.check()
    else:
        environment.read(arguments, environ)
        arguments.problems += arguments.contradictions()
    return arguments


def _show(arguments: Arguments, what: str) -> None:
    arguments.show = arguments.show or what


def _check_combination(arguments: Arguments) -> None:
    """Flags that would have no effect beside each other are refused."""
    if arguments.resolve and not (arguments.show == "config" or "--cfg" in arguments.hydra):
        raise UsageError("--resolve: says how --cfg prints; give --cfg job")
    if arguments.show in ("config", "hydra") and arguments.report:
        raise UsageError("--env: tells about a start, and --cfg, --info and --shell-completion start nothing")
    if arguments.show == "hydra" and arguments.multirun:
        raise UsageError("--multirun: cannot be used with " + arguments.hydra[0])


def _read_flag(arguments: Arguments, token: str, tokens: deque[str]) -> None:
    flag, equals, text = token.partition("=")
    if re.match(r"-[pg]\d", token):  # -p8080
        flag, equals, text = token[:2], "=", token[2:]
    flag = _SHORT.get(flag, flag)
    name = flag[2:].replace("-", "_")
    if flag in _SWITCHES:
        if equals:
            raise UsageError(f"{flag} takes no value")
        _SWITCHES[flag](arguments)
    elif flag in _HYDRA:
        _read_hydra_flag(arguments, flag, text if equals else _value_for_hydra(flag, tokens), tokens)
    elif flag.startswith("--") and (flag[2:] in _flags() or flag[2:] in _job_flags()):
        name = options.canonical(name)
        text = text if equals else _following_value(flag, name, tokens)
        if not later.put(arguments, name, text, flag):
            arguments.add(name, text, flag)
    else:
        if not equals and tokens and not re.match(r"-|\w+=", tokens[0]):
            tokens.popleft()  # its value, about which there is no more to say
        known = [*_flags(), *_job_flags(), *(switch.lstrip("-") for switch in (*_SWITCHES, *_HYDRA))]
        raise UsageError(f"unknown option {flag}" + nearest(flag.lstrip("-").replace("_", "-"), known, "--"))


def _flags() -> list[str]:
    return [name.replace("_", "-") for name in [*TYPES, *files.groups(), *later.flags()]]


def _job_flags() -> list[str]:
    """Those of the jobs' fields; only asked for where no other flag is meant, as it loads the jobs."""
    return [name.replace("_", "-") for name in parts.known("job")]


def _following_value(flag: str, name: str, tokens: deque[str]) -> str:
    if options.is_switch(name) or later.is_switch(name):
        return tokens.popleft() if tokens and tokens[0].lower() in BOOLEANS else "true"
    if not tokens or re.match(r"--?[A-Za-z]", tokens[0]):
        raise UsageError(f"{flag} needs a value")
    return tokens.popleft()


def _value_for_hydra(flag: str, tokens: deque[str]) -> str:
    if flag == "--info" and (not tokens or tokens[0] not in _INFO):
        return "all"
    return _following_value(flag, "", tokens)


def _read_hydra_flag(arguments: Arguments, flag: str, text: str, tokens: deque[str]) -> None:
    if flag in ("--config-dir", "--config-name"):
        setattr(arguments, flag[2:].replace("-", "_"), text)
        return
    allowed = {"--cfg": _CFG, "--info": _INFO}.get(flag)
    if allowed and text not in allowed:
        raise UsageError(f"{flag}={text}: expected one of {', '.join(allowed)}")
    if (flag, text) == ("--cfg", "job"):
        _show(arguments, "config")
        return
    _show(arguments, "hydra")
    arguments.hydra += [flag, text]
    if flag == "--shell-completion" and not re.fullmatch(r"(install|uninstall|query)=\w+", text):
        raise UsageError(f"{flag} {text}: expected install=SHELL, uninstall=SHELL or query=SHELL")


def _read_override(arguments: Arguments, token: str) -> None:
    key, equals, text = token.partition("=")
    if not equals and not token.startswith("~"):
        raise UsageError(f"unexpected argument {token}: options are written --name VALUE or name=VALUE")
    name = options.canonical(key.lstrip("+~"))
    if re.match(r"hydra\b", name):
        _read_plugin(arguments, token, name)
        return
    if _is_unknown(name):  # Hydra would only name what stands before the dot
        meant = nearest(name.replace(".", "_"), parts.known("job"))
        raise UsageError(f"unknown option {name}{meant} ({_COMMAND_LINE})")
    key = key[: -len(key.lstrip("+~"))] + name
    text, hint = _full_names(text), options.hint(name)
    token = f"{key}{equals}{text}"
    if arguments.multirun and _is_sweep(token):
        arguments.write(name, token, _COMMAND_LINE)
    elif key in files.groups() or (key == name and hint is not None and _is_literal(hint, text)):
        if not later.put(arguments, key, text, _COMMAND_LINE):
            arguments.set(key, text, _COMMAND_LINE)
    elif key in later.flags():
        later.put(arguments, key, text, _COMMAND_LINE)
    elif key == name and is_list(hint) and not text.startswith("["):
        arguments.write(key, f"{key}=[{text}]", _COMMAND_LINE)
    else:
        arguments.write(name, token, _COMMAND_LINE)


def _read_plugin(arguments: Arguments, token: str, name: str) -> None:
    if not re.match(r"hydra[/.](sweeper|launcher)\b", name):
        raise UsageError(f"{name} sets up Hydra itself, which has no settings here but its sweeper and launcher")
    if not arguments.multirun:
        raise UsageError(f"{name}: says how --multirun chooses or runs its points; give -m")
    arguments.plugins.append(token)


def _is_unknown(name: str) -> bool:
    """Whether a name with dots belongs to no option, part or group."""
    first, dot, _ = name.partition(".")
    known = first in TYPES or first in parts.PARTS or first in files.groups()
    return bool(dot and re.fullmatch(r"[\w.]+", name)) and not known


def _full_names(text: str) -> str:
    """The text, what its interpolations name in full: `${clients}` is the job's."""
    return re.sub(r"(?<!\\)\$\{([\w.]+)\}", lambda match: f"${{{options.canonical(match[1])}}}", text)


def _is_literal(hint: Any, text: str) -> bool:
    """False when the value of an option uses Hydra's grammar: null, quotes, an interpolation, a list for a list."""
    quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "'\""
    hydra = quoted or "${" in text or (text == "null" and is_optional(hint))
    return not (hydra or (is_list(hint) and text.startswith("[")))


def _is_sweep(token: str) -> bool:
    from tgi_server.config.sweep import is_sweep  # Hydra's parser takes a while to import

    return is_sweep(token)

"""What the operator asked for, as overrides that Hydra reads, and what came of it. Stdlib only."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from tgi_server.config import options
from tgi_server.config.describe import expectation, refused
from tgi_server.config.options import inner_type, is_list
from tgi_server.config.schema import ServerConfig
from tgi_server.errors import UsageError

BOOLEANS = {"true": "true", "1": "true", "false": "false", "0": "false"}
"""Ways to write a truth value, in lower case, and what Hydra reads."""


@dataclass
class Arguments:
    """What the operator asked for, ready for `config.load.composition`.

    Attributes:
        overrides: in Hydra's override grammar, the last one wins; with `multirun` some hold several values.
        origins: where the value of an option or group was written.
        warnings: what was left out, and why.
        suspects: variables that are not read, but are named much like some that are.
        problems: what cannot be understood; nothing can be composed then, but its own problems are told beside these.
        config_dir: a directory of YAML files that is searched before our own.
        config_name: the YAML file to start from.
        show: what to print instead of running the job: `summary` or `help`, `version`, `config`, or `hydra`, which is
            what Hydra answers to the flags `hydra`.
        hydra: flags that Hydra itself answers.
        resolve: whether `config` is shown with its interpolations replaced.
        report: whether to tell about the machine before the job.
        multirun: whether to run the job once for every combination of values.
        plugins: with `multirun`, overrides that choose and set up a sweeper or launcher of Hydra's.
    """

    overrides: list[str] = field(default_factory=list)
    origins: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    suspects: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    config_dir: str | None = None
    config_name: str = "config"
    show: str | None = None
    hydra: list[str] = field(default_factory=list)
    resolve: bool = False
    report: bool = False
    multirun: bool = False
    plugins: list[str] = field(default_factory=list)
    _lists: dict[str, list[str]] = field(default_factory=dict)
    _said: dict[str, dict[str, str]] = field(default_factory=dict)

    def set(self, name: str, text: str, origin: str) -> None:
        """Give an option or a group a value that is meant literally, in place of all before."""
        self.write(name, _override(name, text, origin), origin)

    def add(self, name: str, text: str, origin: str) -> None:
        """As `set`, but one more value where the option is a list."""
        if not is_list(options.hint(name)):
            self.set(name, text, origin)
            return
        values = [*self._lists.get(name, []), _not_empty(name, text, origin)]
        self.write(name, f"{name}=[{','.join(map(quote, values))}]", origin)
        self._lists[name] = values

    def write(self, name: str, override: str, origin: str) -> None:
        """Take over an override as it is."""
        self._lists.pop(name, None)
        self._said.setdefault(name, {})[origin] = override
        self.origins[name] = origin
        self.overrides.append(override)

    def add_variable(self, name: str, text: str, origin: str) -> None:
        """As `add`, for a variable that has another name than its option: whatever has set that already stays."""
        if self.origins.get(name, origin) == origin:
            self.add(name, text, origin)
        else:
            self._said[name][origin] = _override(name, text, origin)

    def contradictions(self) -> Iterator[str]:
        """A line for each option that two flags, or two variables, of different names give different values."""
        for name, said in self._said.items():
            for kind in ("--", "environment variable"):
                given = {origin: override for origin, override in said.items() if origin.startswith(kind)}
                if len(set(given.values())) > 1:
                    yield f"{name}: {' and '.join(given)} say different things; leave one of them out"

    @contextmanager
    def collecting(self) -> Iterator[None]:
        """Make what cannot be understood one of `problems`."""
        try:
            yield
        except UsageError as error:
            self.problems.append(str(error))

    def check(self) -> None:
        """Raise UsageError that tells all `problems`."""
        if self.problems:
            raise UsageError("; ".join([*self.problems, *self.suspects]))


@dataclass(frozen=True)
class Composition:
    """A composed configuration.

    Attributes:
        config: checked and read-only.
        origins: where the value of each option or part was written that is not the schema's.
        written: the values as they were written, with interpolations; choices by name.
    """

    config: ServerConfig
    origins: Mapping[str, str]
    written: Mapping[str, Any]


def quote(text: str) -> str:
    """The text as a value in Hydra's override grammar that reads as exactly this text."""
    text = re.sub(r"(\\*)\$\{", r"\1\1\\${", text)  # OmegaConf: not an interpolation
    text = re.sub(r"(\\*)('|\Z)", lambda match: match[1] * 2 + match[2].replace("'", r"\'"), text)
    return f"'{text}'"


def _not_empty(name: str, text: str, origin: str) -> str:
    if not text:
        raise UsageError(refused(name, text, "may not be empty", origin))
    return text


def _override(name: str, text: str, origin: str) -> str:
    _not_empty(name, text, origin)
    hint = options.hint(name)
    if hint is None:
        if text == "null" or not re.fullmatch(r"[\w.-]+", text):
            raise UsageError(refused(name, text, "expected the name of a choice", origin))
        return f"{name}={text}"
    if is_list(hint):
        return f"{name}=[{quote(text)}]"
    if inner_type(hint) is not bool:
        return f"{name}={quote(text)}"
    if text.lower() not in BOOLEANS:
        raise UsageError(refused(name, text, f"expected {expectation(bool)}", origin))
    return f"{name}={BOOLEANS[text.lower()]}"

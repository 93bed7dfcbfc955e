"""What becomes of the flags and variables of later versions of text-generation-inference, and of what deployments set.

The names are data, in `later_names`; here is what such a row can say and how it is followed. Stdlib only.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from tgi_server.config.arguments import Arguments
from tgi_server.config.describe import masked_url, refused
from tgi_server.errors import UsageError


@dataclass(frozen=True)
class Means:
    """The value is one of our option's.

    Attributes:
        option: its name, or that of a group.
        value: None: as it was written.
    """

    option: str
    value: str | None = None


@dataclass(frozen=True)
class Works:
    """It has its effect without being an option: `how`."""

    how: str


@dataclass(frozen=True)
class Nothing:
    """It is accepted with a line, and changes nothing: `why`."""

    why: str


@dataclass(frozen=True)
class Told:
    """A line beside what else becomes of it."""

    words: str


@dataclass(frozen=True)
class Refused:
    """It stops the start: what matters is not there; `instead` says what to do."""

    instead: str


Outcome = Means | Works | Nothing | Told | Refused


@dataclass(frozen=True)
class Row:
    """A name, and what becomes of its values.

    Attributes:
        name: in lower case with underscores; the flag and the variable follow from it.
        otherwise: what becomes of values that `values` does not have; None: the option that has this name gets them.
        values: by regular expressions for whole values in lower case; one may begin with a `(?#...)` for people.
        read: makes outcomes of a value that is more than one thing, instead of the former two; its text says which.
        flag: whether the command line has it.
        switch: whether its flag stands alone for true.
    """

    name: str
    otherwise: Outcome | None = None
    values: Mapping[str, Outcome] = field(default_factory=dict)
    read: Callable[[str], Sequence[Outcome]] | None = None
    flag: bool = True
    switch: bool = False

    def outcomes(self, text: str) -> Sequence[Outcome] | None:
        """What becomes of `text`; None: it is for the option that has this name."""
        if self.read is not None:
            return self.read(text)
        if not text and self.otherwise is not None and not isinstance(self.otherwise, Means):
            return [Nothing("it is empty")]
        matching = (outcome for value, outcome in self.values.items() if re.fullmatch(value, text.lower().strip()))
        outcome = next(matching, self.otherwise)
        return None if outcome is None else [outcome]


def rows() -> Mapping[str, Row]:
    """All rows by name."""
    from tgi_server.config.later_names import ROWS  # which are made of the classes above

    return ROWS


def flags() -> list[str]:
    """The names that are flags but no options of ours."""
    return [name for name, row in rows().items() if row.flag and row.otherwise is not None]


def is_switch(name: str) -> bool:
    """Whether the flag of this name stands alone for true."""
    return name in rows() and rows()[name].switch


def put(arguments: Arguments, name: str, text: str, origin: str) -> bool:
    """Do what the row of a flag, variable or override says; False where the option of this name gets the text.

    Raises:
        UsageError: the row refuses the value.
    """
    row, variable = rows().get(name), origin.startswith("environment variable")
    outcomes = row.outcomes(text) if row is not None and (row.flag or variable) else None
    for outcome in outcomes or ():
        if isinstance(outcome, Refused):
            raise UsageError(refused(name, text, outcome.instead, origin))
        if isinstance(outcome, Nothing | Told):
            words = outcome.words if isinstance(outcome, Told) else f"changes nothing, {outcome.why}"
            said = origin if variable else name
            arguments.warnings.append(f"{said}={masked_url(text)}: {words}")
        if isinstance(outcome, Means):
            give = arguments.add_variable if variable else arguments.add
            give(outcome.option, text if outcome.value is None else outcome.value, origin)
    return outcomes is not None


def advice(name: str) -> str | None:
    """What someone who writes the name of a row into a YAML file is told; None where there is no such row."""
    row = rows().get(name)
    match row.otherwise if row is not None else None:
        case Means(option):
            return f"write {option}"
        case Nothing(words) | Refused(words) | Works(words):
            return words
        case _:
            return None

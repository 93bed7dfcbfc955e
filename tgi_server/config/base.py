"""What options are made of: groups of documented fields, and parts that can be replaced. Stdlib only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar


def option(
    default: Any,
    help: str,
    minimum: float | None = None,
    maximum: float | None = None,
    secret: bool = False,
    concerns: tuple[str, ...] = (),
    words: Mapping[str, int] | None = None,
) -> Any:
    """A documented field, of a group or of a part.

    Args:
        help: what it does and in which unit.
        minimum: the least number allowed.
        maximum: the greatest number allowed.
        secret: whether its value is never shown.
        concerns: which of `CONCERNED` have to be started anew when it changes; as its group says when not given.
        words: that may stand for a whole number, and what they are kept as; only of a group's field.
    """
    metadata = {
        "help": help, "minimum": minimum, "maximum": maximum, "secret": secret, "concerns": concerns,
        "words": words or {},
    }  # fmt: skip
    return field(default=default, metadata=metadata)


def option_list(help: str) -> Any:
    """A documented field that holds several texts; empty by default."""
    return field(default_factory=list, metadata=option(None, help).metadata)


CONCERNED = ("launcher", "shard", "router", "job")
"""Whom an option can concern: a sweep over options that only concern the job keeps the server running."""


class Options:
    """Base of all groups: assignable until `freeze`, read-only afterwards.

    Attributes:
        concerns: which of `CONCERNED` read the options of a group, where an option does not say so itself.
    """

    concerns: ClassVar[tuple[str, ...]] = ()

    def __setattr__(self, name: str, value: Any) -> None:
        if self.__dict__.get("_frozen", False):
            raise AttributeError(f"the configuration is frozen: {name} cannot be set")
        object.__setattr__(self, name, value)


def freeze(options: Options) -> None:
    """Make `options` and the groups inside it read-only."""
    for value in list(vars(options).values()):
        if isinstance(value, Options):
            freeze(value)
    object.__setattr__(options, "_frozen", True)


@dataclass
class Part(Options):
    """A replaceable part: the dotted path of a class or function inside `tgi_server`, and what its fields are set to.

    The fields of a part are those of the dataclass it names; `tgi_server.config.parts` knows them.

    Attributes:
        fields: as YAML holds them (enums by name), and only those that differ from the class's own defaults.
    """

    _target_: str = ""
    fields: dict[str, Any] = field(default_factory=dict)


def part(target: str, help: str, concerns: tuple[str, ...], typed: bool = True, offers: tuple[str, ...] = ()) -> Any:
    """A field that names what runs.

    Args:
        target: the default.
        help: what it decides.
        concerns: which of `CONCERNED` it is put into.
        typed: whether the target's fields can be set; it is imported by the launcher then, so that it must be light.
        offers: attributes by which such a part is known from others.
    """
    metadata = {"help": help, "target": target, "concerns": concerns, "typed": typed, "offers": offers}
    return field(default_factory=lambda: Part(target), metadata=metadata)

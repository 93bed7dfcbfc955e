"""What the launcher tells the program that does the work. Stdlib only."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from typing import Any

from tgi_server.compress.options import Method, QuantizeOptions


@dataclass(frozen=True)
class Task:
    """What to do.

    Attributes:
        model: directory of the model.
        adapter: directory of an adapter that is merged into it; None for none.
        out: directory for the checkpoint.
        given: `QuantizeOptions` by name, as JSON holds them.
        job: what has to be the same for work that was begun.
    """

    model: str
    adapter: str | None
    out: str
    given: dict[str, Any]
    job: dict[str, Any]

    @property
    def options(self) -> QuantizeOptions:
        """Those that were given."""
        return QuantizeOptions(**{**self.given, "method": Method(self.given["method"])})

    def text(self) -> str:
        """As `read` reads it."""
        return json.dumps(asdict(self))

    @classmethod
    def read(cls, text: str) -> Task:
        """What `text` gave."""
        return cls(**json.loads(text))


def as_json(options: QuantizeOptions) -> dict[str, Any]:
    """The options by name."""
    values = {field.name: getattr(options, field.name) for field in fields(QuantizeOptions)}
    return {**values, "method": options.method.value}

"""What a probe finds out, as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from tgi_server.errors import ModelError
from tgi_server.simulate.costs import MeasuredCosts, Sample
from tgi_server.types import ShardInfo


@dataclass(frozen=True)
class Findings:
    """What was found out.

    Attributes:
        info: what the shards told.
        samples: what was measured.
        costs: what that comes to.
        model_dir: holds the tokenizer.
    """

    info: ShardInfo
    samples: Sequence[Sample]
    costs: MeasuredCosts
    model_dir: str = ""

    def to_json(self) -> str:
        """As text; see `from_json`."""
        return msgspec.json.encode(self).decode()

    @classmethod
    def from_json(cls, text: str | bytes) -> Findings:
        """Raises ModelError for what `to_json` has not written."""
        try:
            return msgspec.json.decode(text, type=cls)
        except msgspec.DecodeError as error:
            raise ModelError(f"costs that cannot be read: {error}") from None

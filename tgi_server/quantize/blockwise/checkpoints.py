"""What a checkpoint of bitsandbytes says of itself. Stdlib only."""

from __future__ import annotations

import json

from tgi_server.errors import ConfigError, ModelError
from tgi_server.quantize.settings import Settings

KINDS = ("nf4", "fp4")


def method_of(settings: Settings) -> str | None:
    """The value of `quantize` for such a checkpoint; None for one that bitsandbytes has not made.

    Raises:
        ModelError: it is of a kind that is not served.
    """
    if settings.method != "bitsandbytes":
        return None
    if settings.entries.get("load_in_8bit"):
        return "bitsandbytes"
    kind = settings.entries.get("bnb_4bit_quant_type", "fp4")  # which transformers leaves unsaid
    if settings.entries.get("load_in_4bit") and kind in KINDS:
        return f"bitsandbytes-{kind}"
    said = f"bnb_4bit_quant_type is {json.dumps(kind)}" if settings.entries.get("load_in_4bit") else "none is true"
    raise ModelError(
        f"{settings.place}: load_in_8bit, or load_in_4bit with bnb_4bit_quant_type nf4 or fp4 are served; {said}"
    )


def check_method(name: str, settings: Settings) -> None:
    """Raise ConfigError unless `quantize=NAME` reads such a checkpoint."""
    if (works := method_of(settings)) == name:
        return
    if works is None:
        works, made = "", f"by {settings.method}"
    else:
        works, made = f"quantize={works} works, or ", "otherwise"
    raise ConfigError(
        f"quantize={name}: the checkpoint is quantised already, {made} ({settings.place}); {works}leave quantize out"
    )

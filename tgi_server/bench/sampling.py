"""How tokens are to be chosen: fields of a request of the OpenAI API, or of its usual extensions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from tgi_server.bench.options import BenchOptions
from tgi_server.errors import UsageError

_FILTERS = ("top_k", "top_p", "typical_p", "min_p")
_PENALTIES = ("repetition_penalty", "frequency_penalty", "presence_penalty")
_SEED = "sampling_seed"


def fields(options: BenchOptions) -> Mapping[str, Any]:
    """Those that the options ask for, `temperature` always. Raises UsageError for what would have no effect."""
    given = {name: getattr(options, name) for name in (*_FILTERS, *_PENALTIES, _SEED)}
    given = {name: value for name, value in given.items() if value is not None}
    random = [name for name in given if name not in _PENALTIES]
    if options.temperature == 0 and random:
        name = random[0]
        raise UsageError(f"{name}={given[name]}: has no effect with temperature=0, which takes the likeliest token")
    if _SEED in given:
        given["seed"] = given.pop(_SEED)
    if options.watermark:
        given["watermark"] = True
    return {"temperature": _temperature(options, bool(random)), **given, **_ending(options)}


def _temperature(options: BenchOptions, samples: bool) -> float:
    return float(samples) if options.temperature is None else options.temperature


def _ending(options: BenchOptions) -> Mapping[str, Any]:
    """Texts have as many tokens as they may, unless they have to look like something, which they end with."""
    if options.response_format is None:
        return {"ignore_eos": True}
    try:
        form = orjson.loads(options.response_format)
    except orjson.JSONDecodeError:
        form = None
    if not isinstance(form, dict):
        raise UsageError(f"response_format={options.response_format}: expected a JSON object")
    return {"response_format": form}

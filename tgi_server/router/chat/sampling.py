"""How tokens are picked, for APIs that know a temperature and the two usual filters."""

from __future__ import annotations

from tgi_server.router.http.rules import check_above_zero, require
from tgi_server.types import SamplingParams


def check_sampling(temperature: float | None, top_p: float | None, hottest: float) -> None:
    """Refuse a temperature outside of 0 to `hottest`, and a `top_p` that is no share.

    Raises:
        ValidationError: see above.
    """
    if temperature is not None:
        require(0.0 <= temperature <= hottest, f"`temperature` must be >= 0.0 and <= {hottest}", "temperature")
    check_above_zero("temperature", temperature or None)
    require(top_p is None or 0.0 < top_p <= 1.0, "`top_p` must be > 0.0 and <= 1.0", "top_p")


def sampling(temperature: float | None, top_p: float | None, seed: int, top_k: int = 0) -> SamplingParams:
    """Random unless the temperature is 0, which switches the filters off."""
    if temperature == 0:
        return SamplingParams(seed=seed)
    return SamplingParams(
        do_sample=True,
        temperature=1.0 if temperature is None else temperature,
        top_k=top_k,
        top_p=1.0 if top_p is None else top_p,
        seed=seed,
    )

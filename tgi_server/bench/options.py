"""The options of the load generator: the fields of its job. Stdlib only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Optional

from tgi_server.config.schema import Options, option


@dataclass
class BenchOptions(Options):
    """What the load generator asks of a server."""

    concerns: ClassVar[tuple[str, ...]] = ("job",)

    target: Optional[str] = option(
        None,
        "URL of the running server to measure, any with the OpenAI interface (http://127.0.0.1:8000). Unset: the "
        "configured server is started, measured and stopped.",
    )
    clients: Optional[str] = option(
        None,
        "Requests under way at a time: one number, or several measured one after the other (1,8,32). With "
        "request_rate: the most at a time. Unset: 1, and 256 with request_rate.",
    )
    request_rate: Optional[float] = option(
        None, "Requests a second that arrive at random (Poisson), whether or not earlier ones are done.", minimum=1e-3
    )
    requests: Optional[int] = option(None, "Requests to measure.", minimum=1)
    duration: Optional[float] = option(
        None,
        "Seconds during which new requests are sent; with requests, whichever ends first. Unset: 10, or no limit "
        "where requests is given.",
        minimum=0.1,
    )
    warmup: Optional[int] = option(
        None, "Requests before each measurement that do not count. Unset: one a client, 32 at most.", minimum=0
    )
    time_limit: float = option(
        600.0, "Seconds after which a measurement ends; requests still running count as failed.", minimum=1
    )
    prompts: Optional[str] = option(None, "A text file with one prompt a line, used in turn.")
    prompt_tokens: Optional[str] = option(
        None, "Length of prompts made of random words, in tokens and roughly: 80, or 64-256. Unset: 80."
    )
    new_tokens: int = option(128, "Tokens to generate a request.", minimum=1)
    seed: int = option(0, "Seed of random prompts and arrivals.", minimum=0)
    output: Optional[str] = option(None, "JSON file for the results and the record of every request.")

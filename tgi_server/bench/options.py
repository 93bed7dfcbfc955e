"""The options of the load generator: the fields of its job. Stdlib only."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import ClassVar, Optional

from tgi_server.config.base import Options, option


class Texts(Enum):
    """What prompts are made of where they do not come from a file."""

    random = "random"
    ordinary = "ordinary"
    repetitive = "repetitive"


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
        "request_rate or traffic_speed: the most at a time. Unset: 1, and 256 with request_rate or traffic alone.",
    )
    request_rate: Optional[float] = option(
        None, "Requests a second that arrive at random (Poisson), whether or not earlier ones are done.", minimum=1e-3
    )
    traffic: Optional[str] = option(
        None,
        "Lengths, arrivals and shared beginnings of requests: chat, summarise, code-complete, agent, mixed, or a file, "
        "such as one that record_traffic wrote. With clients the lengths in turn, with request_rate at random moments, "
        "with neither as the file says. Takes the place of prompts, workload, prompt_tokens and new_tokens.",
    )
    traffic_speed: Optional[float] = option(
        None,
        "How many times as fast as its file says the requests of a traffic arrive. Unset: 1, and no arrivals where "
        "clients or request_rate is given.",
        minimum=1e-3,
        maximum=1e6,
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
    workload: Texts = option(
        Texts.random,
        "What prompts are made of where they do not come from a file: random words; the beginnings of ordinary texts; "
        "or repetitive tasks, whose answers are for the most part in the prompt (code with a name changed, JSON, a "
        "copied paragraph).",
    )
    prompt_tokens: Optional[str] = option(
        None, "Length of prompts made of random words, in tokens and roughly: 80, or 64-256. Unset: 80."
    )
    new_tokens: Optional[int] = option(None, "Tokens to generate a request. Unset: 128.", minimum=1)
    temperature: Optional[float] = option(
        None,
        "Temperature of each request; 0 takes the likeliest token each time. Unset: 0, or 1 where something is given "
        "that needs sampling (top_k, top_p, typical_p, min_p, sampling_seed). This and all that follow are sent as "
        "they are, when given; what other servers do not know they may ignore.",
        minimum=0,
    )
    top_k: Optional[int] = option(None, "Choose among so many of the likeliest tokens.", minimum=1)
    top_p: Optional[float] = option(
        None, "Choose among the likeliest tokens that have this probability together.", minimum=0, maximum=1
    )
    typical_p: Optional[float] = option(
        None, "Choose among the most typical tokens that have this probability together.", minimum=0, maximum=1
    )
    min_p: Optional[float] = option(
        None, "Choose among tokens with at least this share of the likeliest one's probability.", minimum=0, maximum=1
    )
    repetition_penalty: Optional[float] = option(
        None, "Divide scores of tokens by it that prompt or text have already.", minimum=0
    )
    frequency_penalty: Optional[float] = option(
        None, "Take it off a token's score for each time that the text has it.", minimum=-2, maximum=2
    )
    presence_penalty: Optional[float] = option(
        None, "Take it off the score of tokens that the text has.", minimum=-2, maximum=2
    )
    watermark: bool = option(False, "Ask for marked texts.")
    response_format: Optional[str] = option(
        None,
        'What texts have to look like, in JSON: {"type": "regex", "value": "[a-z ]*"}. A text may then end before '
        "new_tokens.",
    )
    sampling_seed: Optional[int] = option(
        None, "Seed of the random choices of each request. Unset: the server takes one.", minimum=0
    )
    seed: int = option(0, "Seed of random prompts and arrivals.", minimum=0)
    output: Optional[str] = option(
        None, "JSON file for the results and the record of every request; of a sweep, for the results of its points."
    )

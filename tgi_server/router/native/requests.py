"""What clients of the native API send."""

from __future__ import annotations

import msgspec
from msgspec import UNSET, UnsetType

from tgi_server.router.http.formats import Format
from tgi_server.router.http.wire import Body, Int32, UInt32, UInt64, fits_64_bits


class Parameters(Body, frozen=True, omit_defaults=True):
    """The `parameters` of the native API."""

    GUIDES = ("grammar",)

    best_of: UInt64 | None = None
    """Generate so many texts, at most `max_best_of` of `/info`, and answer with the likeliest. It needs sampling and
    no `seed`, and cannot be streamed. 1 if it is not given."""
    temperature: float | None = None
    """Above 0. What is below 1 favours likely tokens, what is above 1 evens them out. 1.0 if it is not given. Any
    other value samples."""
    repetition_penalty: float | None = None
    """Above 0. Scores of tokens that were there before are divided by it (multiplied where they are negative). 1.0,
    which changes nothing, if it is not given."""
    frequency_penalty: float | None = None
    """From -2 to 2. So much is taken off the score of a token for each time that it was generated before. 0.0 if it is
    not given."""
    top_k: Int32 | None = None
    """Above 0. Choose among so many of the likeliest tokens. All of them if it is not given."""
    top_p: float | None = None
    """Above 0 and below 1. Choose among the likeliest tokens that have this probability together. All of them if it is
    not given."""
    typical_p: float | None = None
    """Above 0 and below 1. Choose among the tokens that are the most typical ones and have this probability together.
    All of them if it is not given."""
    do_sample: bool = False
    """Sample: choose tokens at random, by their probabilities. `temperature`, `top_k`, `top_p` and `typical_p` imply
    it. Otherwise the likeliest token is taken each time."""
    max_new_tokens: UInt32 | None = 100
    """Above 0. The longest text, in tokens; with the prompt at most `max_total_tokens` of `/info`. `null` asks for as
    many as fit."""
    return_full_text: bool | None = None
    """Put the prompt before the generated text. If it is not given, only `/` and `/invocations` do so, for models
    whose `model_pipeline_tag` in `/info` is `text-generation`."""
    stop: list[str] = msgspec.field(default_factory=list)
    """Texts that end the generation, at most `max_stop_sequences` of `/info`. What stopped it stays in the text."""
    truncate: UInt64 | None = None
    """From 1 to `max_input_length` of `/info`. Of a longer prompt only so many tokens are used, the last ones."""
    watermark: bool = False
    """Mark the text so that a program can tell later that it was generated."""
    details: bool = False
    """Tell the tokens with their log-probabilities, and why the text ended."""
    decoder_input_details: bool = False
    """Tell the tokens of the prompt with their log-probabilities, in `details.prefill`. It cannot be streamed."""
    seed: UInt64 | None = None
    """Of the random choices, at most 2^64 - 1: the same request with the same seed has the same answer. A random one
    if it is not given."""
    top_n_tokens: UInt32 | None = None
    """Tell so many of the likeliest tokens at each step, with their log-probabilities. The option `max_top_n_tokens`
    of the server limits it, 5 by default. 0 if it is not given."""
    grammar: Format | None = None
    """What the text has to look like. Any text if it is not given."""
    adapter_id: str | None = None
    """Not served: a server has one model, which may be an adapter with its base."""

    def __post_init__(self) -> None:
        fits_64_bits(best_of=self.best_of, truncate=self.truncate, seed=self.seed)


class GenerateBody(Body, frozen=True):
    """Body of `/generate`, `/generate_stream`, `/tokenize` and `/` (the only one that reads `stream`)."""

    inputs: str
    """The prompt. It cannot be empty."""
    parameters: Parameters | UnsetType = UNSET
    """How to generate. Without this object tokens are chosen at random (`do_sample` is true); with it, also if it is
    empty, only when it says so."""
    stream: bool = False
    """Send server-sent events instead of a list. Only `/` and `/invocations` look at it."""

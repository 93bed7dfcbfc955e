"""What clients of the native API get: the shape of every answer and event.

The builders of answers are typed with these, and the OpenAPI document is made from them, so the two cannot differ.
They are plain dictionaries, because one is made for every token.
"""

from __future__ import annotations

from typing import NotRequired, TypedDict

from tgi_server.types import FinishReason


class PromptToken(TypedDict):
    """A token of the prompt. The first one has no log-probability."""

    id: int
    text: str
    logprob: float | None


class Token(TypedDict):
    """A generated token, or one that might have been."""

    id: int
    text: str
    """What the token adds to the text; empty while a character is incomplete."""
    logprob: float | None
    special: bool
    """It is no part of the text, such as an end-of-sequence token."""


class StreamDetails(TypedDict):
    """How a generation ended."""

    finish_reason: FinishReason
    generated_tokens: int
    """Length of the text, with the token that ended it."""
    seed: int | None
    """Of the random choices; `null` if there were none."""


class Details(StreamDetails):
    """How a generation ended, and all its tokens."""

    prefill: list[PromptToken]
    """The tokens of the prompt if `decoder_input_details` was asked for."""
    tokens: list[Token]
    """The generated tokens."""
    best_of_sequences: NotRequired[list[BestOfSequence]]
    """The other texts if `best_of` was above 1."""
    top_tokens: NotRequired[list[list[Token]]]
    """The likeliest tokens of each step if `top_n_tokens` was above 0."""


class BestOfSequence(Details):
    """A text of `best_of` that was less likely than the answer."""

    generated_text: str


class Generated(TypedDict):
    """A whole answer of the native API."""

    generated_text: str
    details: NotRequired[Details]
    """There if `details` or `decoder_input_details` was asked for."""


class StreamEvent(TypedDict):
    """One token of a stream of the native API. The last one has the whole text."""

    index: int
    """Counts from 1."""
    token: Token
    top_tokens: NotRequired[list[Token]]
    """The likeliest tokens of this step if `top_n_tokens` was above 0."""
    generated_text: str | None
    """`null` but in the last event."""
    details: StreamDetails | None
    """`null` but in the last event, and there if `details` was asked for."""


class TokenSpan(TypedDict):
    """A token of a text, and where it stands in it."""

    id: int
    text: str
    start: int
    """Position in the text, in characters."""
    stop: int
    """Position of what follows it."""

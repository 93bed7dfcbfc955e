"""What one request may ask for, and what it becomes: prompts with a request to the engine for each text.

The functions tokenise, so they are run in the validation threads. Pure: no I/O, no shared state.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from tokenizers import Encoding, Tokenizer

from tgi_server.config.schema import BatchingOptions, ValidationOptions
from tgi_server.errors import ValidationError
from tgi_server.router.http.rules import require
from tgi_server.types import GenerationRequest, Guide, ShardInfo

Item = TypeVar("Item")

CONTEXT_LENGTH_EXCEEDED = "context_length_exceeded"
"""The code by which clients know that a conversation has to be shortened."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one request may ask for; lengths in tokens. What the batch can hold is the scheduler's to know."""

    max_input_length: int
    max_total_tokens: int
    max_best_of: int
    max_stop_sequences: int
    max_top_n_tokens: int
    max_candidates: int
    vocab_size: int
    unguided: str | None = None
    scores_prompts: bool = True
    """Whether the tokens of a prompt have scores; those that an encoder reads have none."""
    reasoning: bool = True
    """Whether what a model thinks is told apart from its answer."""

    @staticmethod
    def of(batching: BatchingOptions, validation: ValidationOptions, shard: ShardInfo) -> Limits:
        """The limits of a configuration and of the model that the shards run."""
        return Limits(
            max_input_length=batching.max_input_length,
            max_total_tokens=batching.max_total_tokens,
            max_best_of=validation.max_best_of,
            max_stop_sequences=validation.max_stop_sequences,
            max_top_n_tokens=validation.max_top_n_tokens,
            max_candidates=batching.max_concurrent_requests,
            vocab_size=shard.vocab_size,
            unguided=shard.unguided,
            scores_prompts=shard.start_token_id is None,
            reasoning=validation.reasoning,
        )


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt that may run, and a request for each text to generate from it. `text` is empty where it came as ids."""

    text: str
    requests: Sequence[GenerationRequest]


@dataclass(frozen=True, slots=True)
class Prepared:
    """All that a client's request asks for."""

    prompts: Sequence[Prompt]

    @property
    def requests(self) -> list[GenerationRequest]:
        """One for each text to generate."""
        return [request for prompt in self.prompts for request in prompt.requests]

    @property
    def characters(self) -> int:
        """Length of the prompts' texts."""
        return sum(len(prompt.text) for prompt in self.prompts)

    @property
    def prompt_tokens(self) -> int:
        """Length of the prompts that the model sees."""
        return sum(len(prompt.requests[0].prompt_ids) for prompt in self.prompts)


def with_grammar(
    request: GenerationRequest, grammar: str | None, limits: Limits, close: Sequence[int] = ()
) -> GenerationRequest:
    """The request for a text that has to match `grammar`, if any; `close` is that of the guide.

    Raises:
        ValidationError: texts of this model cannot be guided, or this one is not to end where the grammar does.
    """
    if grammar is None:
        return request
    if limits.unguided is not None:
        raise ValidationError(f"texts of this model cannot be guided: {limits.unguided}")
    if request.stopping.ignore_eos:
        raise ValidationError("`ignore_eos` cannot be combined with `tools` or a `response_format`", "ignore_eos")
    guide = Guide(grammar, request.stopping.max_new_tokens, tuple(close))
    return replace(request, sampling=replace(request.sampling, guide=guide))


def variants(request: GenerationRequest, count: int) -> list[GenerationRequest]:
    """`count` requests that differ in their seeds: the one there is, and those after it."""
    sampling = request.sampling
    seeds = ((sampling.seed + index) % 2**64 for index in range(count))
    return [replace(request, sampling=replace(sampling, seed=seed)) for seed in seeds]


def tokenise(
    tokenizer: Tokenizer, text: str, *, truncate: int | None = None, add_special_tokens: bool = True
) -> list[int]:
    """Token ids of a text, the last `truncate` of them.

    Raises:
        ValidationError: the tokenizer refuses the text.
    """
    return last(encode(tokenizer.encode_batch_fast, text, add_special_tokens).ids, truncate)


def context_tokens(ids: Sequence[int], max_new_tokens: int | None, limits: Limits, param: str) -> int:
    """How many tokens may follow the prompt `ids`; None fills up to `max_total_tokens`.

    What is wrong is said in the words that clients of the OpenAI API look for; `param` is the field of the prompt.

    Raises:
        ValidationError: prompt and answer are too long, or the prompt holds ids the model does not know.
    """
    check_ids(ids, limits, param)
    length, total = len(ids), limits.max_total_tokens
    known = f"This model's maximum context length is {total} tokens"
    if max_new_tokens is not None and length + max_new_tokens > total:
        asked = f"{length} for the prompt and {max_new_tokens} for the answer"
        message = f"{known}. However, {length + max_new_tokens} tokens are asked for: {asked}"
        raise ValidationError(message, param, CONTEXT_LENGTH_EXCEEDED)
    if length > limits.max_input_length:
        share = f"{limits.max_input_length} of them for the prompt"
        message = f"{known}, {share}. However, the prompt has {length} tokens"
        raise ValidationError(message, param, CONTEXT_LENGTH_EXCEEDED)
    return total - length if max_new_tokens is None else max_new_tokens


def check_ids(ids: Sequence[int], limits: Limits, param: str) -> None:
    """Refuse a prompt without tokens, or with ids that the model does not know.

    Raises:
        ValidationError: see above.
    """
    require(len(ids) > 0, f"`{param}` must have at least one token", param)
    foreign = next((token for token in ids if not 0 <= token < limits.vocab_size), None)
    require(foreign is None, f"the model has no token {foreign}; ids must be < {limits.vocab_size}", param)


def encode(encode_batch: Callable[..., list[Encoding]], text: str, add_special_tokens: bool) -> Encoding:
    """The encoding of one text by a tokenizer's method for several.

    `Tokenizer.encode` would keep all other threads waiting, for a second if the text is long; batches do not.

    Raises:
        ValidationError: the tokenizer refuses the text.
    """
    try:
        return encode_batch([text], add_special_tokens=add_special_tokens)[0]
    except Exception as error:  # the binding raises bare Exception for every failure of the tokenizer
        raise ValidationError(f"Tokenizer error {error}", "inputs", logged="the tokenizer refused a text") from None


def last(items: list[Item], count: int | None) -> list[Item]:
    """The last `count` of the items, all of them for None."""
    return items if count is None else items[max(0, len(items) - count) :]


def check_stop(stop: Sequence[str], limits: Limits) -> None:
    """Refuse too many stop sequences, or an empty one, which would match everywhere.

    Raises:
        ValidationError: see above.
    """
    require(
        len(stop) <= limits.max_stop_sequences,
        f"`stop` supports up to {limits.max_stop_sequences} stop sequences. Given: {len(stop)}",
        "stop",
    )
    require("" not in stop, "`stop` cannot hold an empty string", "stop")


def check_top_n(name: str, value: int, limits: Limits) -> None:
    """Refuse more alternatives a token than the server gives.

    Raises:
        ValidationError: see above.
    """
    maximum = limits.max_top_n_tokens
    require(value <= maximum, f"`{name}` must be >= 0 and <= {maximum}. Given: {value}", name)

"""From what a client wrote to a `GenerationRequest`, or to the first rule it breaks. Pure: no I/O, no shared state.

The functions tokenise, so they are run in the validation threads. Rules are checked in the order of the TGI router.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from msgspec import UNSET
from tokenizers import Encoding, Tokenizer

from tgi_server.config.schema import BatchingOptions, ValidationOptions
from tgi_server.errors import ValidationError
from tgi_server.router import grammars
from tgi_server.router.answers import TokenSpan
from tgi_server.router.wire import GenerateBody, Parameters
from tgi_server.types import GenerationRequest, Guide, SamplingParams, ShardInfo, StoppingParams

Item = TypeVar("Item")

NO_PARAMETERS = Parameters(do_sample=True)
"""What a native request without `parameters` means (decision D24)."""


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


def parameters_of(body: GenerateBody) -> Parameters:
    """The parameters of a native request, with the defaults that depend on their presence."""
    return NO_PARAMETERS if body.parameters is UNSET else body.parameters


def candidates(parameters: Parameters) -> int:
    """How many generations a native request asks for; 0 means one, as for the TGI router."""
    return parameters.best_of or 1


def check_endpoint(parameters: Parameters, streaming: bool, max_best_of: int) -> int:
    """The rules that come before a request is even counted against `max_concurrent_requests`; how often it counts.

    Raises:
        ValidationError: more candidates are asked for than are served, or something that a stream cannot carry.
    """
    if streaming:
        _require(parameters.best_of in (None, 1), "`best_of` must be 1 when streaming tokens", "best_of")
        _require(
            not parameters.decoder_input_details,
            "`decoder_input_details` must be false when streaming tokens",
            "decoder_input_details",
        )
    asked = candidates(parameters)
    _require(asked == 1 or max_best_of > 1, "`best_of` > 1 is not allowed on this endpoint", "best_of")
    _require(asked <= max_best_of, f"`best_of` must be > 0 and <= {max_best_of}. Given: {asked}", "best_of")
    return asked


def native(body: GenerateBody, limits: Limits, tokenizer: Tokenizer, random_seed: int) -> Prepared:
    """Check and tokenise a request of the native API; `random_seed` is used where the client gives none.

    Raises:
        ValidationError: the first rule the request breaks.
    """
    parameters = parameters_of(body)
    several = candidates(parameters) > 1
    _require(not several or _samples(parameters), "`best_of` > 1 needs sampling, such as `do_sample`", "best_of")
    check_numbers(parameters)
    check_stop(parameters.stop, limits)
    _require(not several or parameters.seed is None, "`seed` must not be set when `best_of` > 1", "seed")
    top_n_tokens = parameters.top_n_tokens or 0
    check_top_n("top_n_tokens", top_n_tokens, limits)
    _require(body.inputs != "", "`inputs` cannot be empty", "inputs")
    _check_truncate(parameters.truncate, limits)
    ids = tokenise(tokenizer, body.inputs, truncate=parameters.truncate)
    max_new_tokens = allowed_tokens(ids, parameters.max_new_tokens, limits)
    grammar = None if parameters.grammar is None else grammars.of_format(parameters.grammar, "grammar")
    sampling = SamplingParams(
        do_sample=parameters.do_sample or several,
        temperature=_or(parameters.temperature, 1.0),
        top_k=parameters.top_k or 0,
        top_p=_or(parameters.top_p, 1.0),
        typical_p=_or(parameters.typical_p, 1.0),
        repetition_penalty=_or(parameters.repetition_penalty, 1.0),
        frequency_penalty=_or(parameters.frequency_penalty, 0.0),
        seed=random_seed if parameters.seed is None else parameters.seed,
        top_n_tokens=top_n_tokens,
        prompt_logprobs=parameters.decoder_input_details,
        watermark=parameters.watermark,
        guide=guide_of(grammar, max_new_tokens, limits),
    )
    stopping = StoppingParams(max_new_tokens=max_new_tokens, stop_sequences=tuple(parameters.stop))
    request = GenerationRequest(prompt_ids=ids, sampling=sampling, stopping=stopping)
    return Prepared([Prompt(body.inputs, variants(request, candidates(parameters)))])


def guide_of(grammar: str | None, max_new_tokens: int, limits: Limits) -> Guide | None:
    """The guide of a text that has to match `grammar`, if any.

    Raises:
        ValidationError: texts of this model cannot be guided.
    """
    if grammar is None:
        return None
    if limits.unguided is not None:
        raise ValidationError(f"texts of this model cannot be guided: {limits.unguided}")
    return Guide(grammar, max_new_tokens)


def variants(request: GenerationRequest, count: int) -> list[GenerationRequest]:
    """`count` requests that differ in their seeds: the one there is, and those after it."""
    sampling = request.sampling
    seeds = ((sampling.seed + index) % 2**64 for index in range(count))
    return [replace(request, sampling=replace(sampling, seed=seed)) for seed in seeds]


def _samples(parameters: Parameters) -> bool:
    """Whether sampling is asked for, by itself or by any parameter that only matters to it."""
    implied = (parameters.temperature, parameters.top_k, parameters.top_p, parameters.typical_p)
    return parameters.do_sample or any(value is not None for value in implied)


def check_numbers(parameters: Parameters) -> None:
    """Ranges of the native sampling parameters.

    Raises:
        ValidationError: a number is out of its range.
    """
    check_above_zero("temperature", parameters.temperature)
    check_above_zero("repetition_penalty", parameters.repetition_penalty)
    check_penalty("frequency_penalty", parameters.frequency_penalty)
    _check_share("top_p", parameters.top_p)
    _check_share("typical_p", parameters.typical_p)
    check_above_zero("top_k", parameters.top_k)
    check_above_zero("max_new_tokens", parameters.max_new_tokens)


def check_above_zero(name: str, value: float | None) -> None:
    """Refuse zero and below, also what is only zero or infinite as the 32-bit float it is computed with.

    Raises:
        ValidationError: see above.
    """
    if value is not None:
        single = _single(value)
        _require(single != math.inf, f"`{name}` is too large", name)
        _require(single > 0, f"`{name}` must be strictly positive", name)


def _check_share(name: str, value: float | None) -> None:
    """Refuse all but what is strictly between 0 and 1, as the 32-bit float it is computed with."""
    if value is not None:
        _require(0.0 < _single(value) < 1.0, f"`{name}` must be > 0.0 and < 1.0", name)


def _single(value: float) -> float:
    """The nearest 32-bit float."""
    try:
        return float(struct.unpack("<f", struct.pack("<f", value))[0])
    except OverflowError:
        return math.copysign(math.inf, value)


def check_penalty(name: str, value: float | None) -> None:
    """Refuse a penalty outside of -2 to 2.

    Raises:
        ValidationError: see above.
    """
    _require(value is None or -2.0 <= value <= 2.0, f"`{name}` must be >= -2.0 and <= 2.0", name)


def check_stop(stop: Sequence[str], limits: Limits) -> None:
    """Refuse too many stop sequences, or an empty one, which would match everywhere.

    Raises:
        ValidationError: see above.
    """
    _require(
        len(stop) <= limits.max_stop_sequences,
        f"`stop` supports up to {limits.max_stop_sequences} stop sequences. Given: {len(stop)}",
        "stop",
    )
    _require("" not in stop, "`stop` cannot hold an empty string", "stop")


def check_top_n(name: str, value: int, limits: Limits) -> None:
    """Refuse more alternatives a token than the server gives.

    Raises:
        ValidationError: see above.
    """
    maximum = limits.max_top_n_tokens
    _require(value <= maximum, f"`{name}` must be >= 0 and <= {maximum}. Given: {value}", name)


def tokenise(
    tokenizer: Tokenizer, text: str, *, truncate: int | None = None, add_special_tokens: bool = True
) -> list[int]:
    """Token ids of a text, the last `truncate` of them.

    Raises:
        ValidationError: the tokenizer refuses the text.
    """
    return _last(_encode(tokenizer.encode_batch_fast, text, add_special_tokens).ids, truncate)


def token_spans(tokenizer: Tokenizer, text: str, truncate: int | None) -> list[TokenSpan]:
    """What `/tokenize` answers: id, text and character offsets of each token, special tokens included and empty.

    Raises:
        ValidationError: the tokenizer refuses the text.
    """
    encoding = _encode(tokenizer.encode_batch, text, add_special_tokens=True)
    spans: list[TokenSpan] = [
        {"id": token, "text": text[start:stop], "start": start, "stop": stop}
        for token, (start, stop) in zip(encoding.ids, encoding.offsets, strict=True)
    ]
    return _last(spans, truncate)


def allowed_tokens(
    ids: Sequence[int],
    max_new_tokens: int | None,
    limits: Limits,
    prompt_field: str = "inputs",
    count_field: str = "max_new_tokens",
) -> int:
    """How many tokens may follow the prompt `ids`; None fills up to `max_total_tokens`.

    The two fields are what the API calls the prompt and the number.

    Raises:
        ValidationError: prompt and answer are too long, or hold ids the model does not know.
    """
    length = len(ids)
    total = limits.max_total_tokens
    allowed = max(total - length, 0) if max_new_tokens is None else max_new_tokens
    _require(length > 0, f"`{prompt_field}` must have at least one token", prompt_field)
    _require(
        length + allowed <= total,
        f"`{prompt_field}` tokens + `{count_field}` must be <= {total}. "
        f"Given: {length} `{prompt_field}` tokens and {allowed} `{count_field}`",
        count_field,
    )
    _require(
        length <= limits.max_input_length,
        f"`{prompt_field}` must have less than or equal to {limits.max_input_length} tokens. Given: {length}",
        prompt_field,
    )
    foreign = next((token for token in ids if not 0 <= token < limits.vocab_size), None)
    _require(foreign is None, f"the model has no token {foreign}; ids must be < {limits.vocab_size}", prompt_field)
    return allowed


def _encode(encode_batch: Callable[..., list[Encoding]], text: str, add_special_tokens: bool) -> Encoding:
    """`Tokenizer.encode` would keep all other threads waiting, for a second if the text is long; batches do not."""
    try:
        return encode_batch([text], add_special_tokens=add_special_tokens)[0]
    except Exception as error:  # the binding raises bare Exception for every failure of the tokenizer
        raise ValidationError(f"Tokenizer error {error}", "inputs") from None


def _last(items: list[Item], count: int | None) -> list[Item]:
    return items if count is None else items[max(0, len(items) - count) :]


def _check_truncate(truncate: int | None, limits: Limits) -> None:
    maximum = limits.max_input_length
    _require(
        truncate is None or 0 < truncate <= maximum,
        f"`truncate` must be strictly positive and less than {maximum}. Given: {truncate}",
        "truncate",
    )


def _or(value: float | None, default: float) -> float:
    return default if value is None else value


def _require(holds: bool, message: str, param: str) -> None:
    if not holds:
        raise ValidationError(message, param)

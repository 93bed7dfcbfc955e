"""From what a client of the native API wrote to a `GenerationRequest`, or to the first rule it breaks.

Rules are checked in the order of the TGI router.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import UNSET
from tokenizers import Tokenizer

from tgi_server.router.http import grammars
from tgi_server.router.http.limits import (
    Limits,
    Prepared,
    Prompt,
    check_ids,
    check_stop,
    check_top_n,
    encode,
    last,
    tokenise,
    variants,
    with_grammar,
)
from tgi_server.router.http.rules import check_above_zero, check_penalty, require, single_precision
from tgi_server.router.native.answers import TokenSpan
from tgi_server.router.native.requests import GenerateBody, Parameters
from tgi_server.types import GenerationRequest, SamplingParams, StoppingParams

NO_PARAMETERS = Parameters(do_sample=True)
"""What a native request without `parameters` means (decision D24)."""


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
        require(parameters.best_of in (None, 1), "`best_of` must be 1 when streaming tokens", "best_of")
        require(
            not parameters.decoder_input_details,
            "`decoder_input_details` must be false when streaming tokens",
            "decoder_input_details",
        )
    asked = candidates(parameters)
    require(asked == 1 or max_best_of > 1, "`best_of` > 1 is not allowed on this endpoint", "best_of")
    require(asked <= max_best_of, f"`best_of` must be > 0 and <= {max_best_of}. Given: {asked}", "best_of")
    return asked


def prepare(body: GenerateBody, limits: Limits, tokenizer: Tokenizer, random_seed: int) -> Prepared:
    """Check and tokenise a request of the native API; `random_seed` is used where the client gives none.

    Raises:
        ValidationError: the first rule the request breaks.
    """
    parameters = parameters_of(body)
    require(not parameters.adapter_id, "`adapter_id` is not supported: a server has one model", "adapter_id")
    several = candidates(parameters) > 1
    require(not several or _samples(parameters), "`best_of` > 1 needs sampling, such as `do_sample`", "best_of")
    check_numbers(parameters)
    check_stop(parameters.stop, limits)
    require(not several or parameters.seed is None, "`seed` must not be set when `best_of` > 1", "seed")
    top_n_tokens = parameters.top_n_tokens or 0
    check_top_n("top_n_tokens", top_n_tokens, limits)
    require(body.inputs != "", "`inputs` cannot be empty", "inputs")
    _check_truncate(parameters.truncate, limits)
    ids = tokenise(tokenizer, body.inputs, truncate=parameters.truncate)
    max_new_tokens = _allowed_tokens(ids, parameters.max_new_tokens, limits)
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
    )
    stopping = StoppingParams(max_new_tokens=max_new_tokens, stop_sequences=tuple(parameters.stop))
    request = with_grammar(GenerationRequest(prompt_ids=ids, sampling=sampling, stopping=stopping), grammar, limits)
    return Prepared([Prompt(body.inputs, variants(request, candidates(parameters)))])


def _allowed_tokens(ids: Sequence[int], max_new_tokens: int | None, limits: Limits) -> int:
    """How many tokens may follow the prompt `ids`; None fills up to `max_total_tokens`."""
    check_ids(ids, limits, "inputs")
    length, total = len(ids), limits.max_total_tokens
    allowed = max(total - length, 0) if max_new_tokens is None else max_new_tokens
    require(
        length + allowed <= total,
        f"`inputs` tokens + `max_new_tokens` must be <= {total}. "
        f"Given: {length} `inputs` tokens and {allowed} `max_new_tokens`",
        "max_new_tokens",
    )
    require(
        length <= limits.max_input_length,
        f"`inputs` must have less than or equal to {limits.max_input_length} tokens. Given: {length}",
        "inputs",
    )
    return allowed


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


def _check_share(name: str, value: float | None) -> None:
    """Refuse all but what is strictly between 0 and 1, as the 32-bit float it is computed with."""
    if value is not None:
        require(0.0 < single_precision(value) < 1.0, f"`{name}` must be > 0.0 and < 1.0", name)


def token_spans(tokenizer: Tokenizer, text: str, truncate: int | None) -> list[TokenSpan]:
    """What `/tokenize` answers: id, text and character offsets of each token, special tokens included and empty.

    Raises:
        ValidationError: the tokenizer refuses the text.
    """
    encoding = encode(tokenizer.encode_batch, text, add_special_tokens=True)
    spans: list[TokenSpan] = [
        {"id": token, "text": text[start:stop], "start": start, "stop": stop}
        for token, (start, stop) in zip(encoding.ids, encoding.offsets, strict=True)
    ]
    return last(spans, truncate)


def _check_truncate(truncate: int | None, limits: Limits) -> None:
    maximum = limits.max_input_length
    require(
        truncate is None or 0 < truncate <= maximum,
        f"`truncate` must be strictly positive and less than {maximum}. Given: {truncate}",
        "truncate",
    )


def _or(value: float | None, default: float) -> float:
    return default if value is None else value

"""The rules of the OpenAI API, ending in the same `Prepared` request as the native ones. Pure, run in a thread too."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tokenizers import Tokenizer

from tgi_server.errors import TemplateError, ValidationError
from tgi_server.router.chat import ChatTemplate
from tgi_server.router.validate import (
    Limits,
    Prepared,
    allowed_tokens,
    check_above_zero,
    check_frequency_penalty,
    check_stop,
    check_top_n,
    tokenise,
)
from tgi_server.router.wire import MAX_UINT64, ChatBody, CompletionBody, OpenAIBody
from tgi_server.types import GenerationRequest, SamplingParams, StoppingParams

COMPLETION_TOKENS = 16
"""`max_tokens` of a completion that does not say; a chat may then fill up the model's context."""

_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "n": (None, 1),
    "best_of": (None, 1),
    "presence_penalty": (None, 0.0),
    "logit_bias": (None, {}),
    "min_p": (None, 0.0),
    "min_tokens": (None, 0),
    "stop_token_ids": (None, []),
    "response_format": (None, {"type": "text"}),
    "tools": (None, []),
    "tool_choice": (None, "none", "auto"),
    "functions": (None, []),
    "function_call": (None, "none", "auto"),
    "echo": (None, False),
    "suffix": (None, ""),
}
"""Fields that are not served, with the values that ask for nothing."""


def chat(
    body: ChatBody, template: ChatTemplate | None, limits: Limits, tokenizer: Tokenizer, random_seed: int
) -> Prepared:
    """Check, render and tokenise a conversation.

    Raises:
        ValidationError: the first rule the request breaks.
        TemplateError: there is no template, or it refused the conversation.
    """
    check_fields(body, limits)
    for index, message in enumerate(body.messages):
        if message.content is None or message.tool_calls:
            raise ValidationError("only messages with text content are supported", f"messages[{index}]")
    if body.top_logprobs and not body.logprobs:
        raise ValidationError("`top_logprobs` needs `logprobs` to be true", "top_logprobs")
    top_n_tokens = body.top_logprobs or 0
    check_top_n("top_logprobs", top_n_tokens, limits)
    check_above_zero("max_completion_tokens", body.max_completion_tokens)
    max_new_tokens = body.max_tokens if body.max_completion_tokens is None else body.max_completion_tokens
    if template is None:
        raise TemplateError("the model has no chat template")
    text = template.render(body.messages)
    # The template has written the special tokens already.
    ids = tokenise(tokenizer, text, add_special_tokens=False)
    return Prepared(text, _request(body, ids, max_new_tokens, top_n_tokens, limits, random_seed))


def completion(body: CompletionBody, limits: Limits, tokenizer: Tokenizer, random_seed: int) -> Prepared:
    """Check and tokenise a completion request.

    Raises:
        ValidationError: the first rule the request breaks.
    """
    check_fields(body, limits)
    top_n_tokens = body.logprobs or 0
    check_top_n("logprobs", top_n_tokens, limits)
    max_new_tokens = COMPLETION_TOKENS if body.max_tokens is None else body.max_tokens
    prompt = _only_prompt(body.prompt)
    text, ids = (prompt, tokenise(tokenizer, prompt)) if isinstance(prompt, str) else ("", prompt)
    return Prepared(text, _request(body, ids, max_new_tokens, top_n_tokens, limits, random_seed))


def check_fields(body: OpenAIBody, limits: Limits) -> None:
    """Refuse what is not served, and numbers outside of the ranges that OpenAI documents.

    Raises:
        ValidationError: see above.
    """
    for name, neutral in _NEUTRAL.items():
        if getattr(body, name, None) not in neutral:
            raise ValidationError(f"`{name}` is not supported", name)
    if body.stream_options is not None and not body.stream:
        raise ValidationError("`stream_options` is only allowed when `stream` is true", "stream_options")
    if body.temperature is not None and not 0.0 <= body.temperature <= 2.0:
        raise ValidationError("`temperature` must be >= 0.0 and <= 2.0", "temperature")
    if body.temperature:
        check_above_zero("temperature", body.temperature)
    if body.top_p is not None and not 0.0 < body.top_p <= 1.0:
        raise ValidationError("`top_p` must be > 0.0 and <= 1.0", "top_p")
    if body.top_k is not None and body.top_k < -1:
        raise ValidationError("`top_k` must be positive, or 0 or -1 to switch it off", "top_k")
    check_above_zero("repetition_penalty", body.repetition_penalty)
    check_frequency_penalty(body.frequency_penalty)
    check_above_zero("max_tokens", body.max_tokens)
    check_stop(_stop_sequences(body), limits)


def sampling_of(body: OpenAIBody, top_n_tokens: int, random_seed: int) -> SamplingParams:
    """How to pick tokens: random unless the temperature is 0, which switches every filter off."""
    greedy = body.temperature == 0
    return SamplingParams(
        do_sample=not greedy,
        temperature=1.0 if greedy or body.temperature is None else body.temperature,
        top_k=0 if greedy else max(body.top_k or 0, 0),
        top_p=1.0 if greedy or body.top_p is None else body.top_p,
        repetition_penalty=1.0 if body.repetition_penalty is None else body.repetition_penalty,
        frequency_penalty=body.frequency_penalty or 0.0,
        seed=random_seed if body.seed is None else body.seed & MAX_UINT64,
        top_n_tokens=top_n_tokens,
    )


def _stop_sequences(body: OpenAIBody) -> tuple[str, ...]:
    return (body.stop,) if isinstance(body.stop, str) else tuple(body.stop or ())


def _only_prompt(prompt: str | Sequence[str | int | list[int]]) -> str | list[int]:
    if isinstance(prompt, str):
        only: str | list[int] = prompt
    elif prompt and all(isinstance(item, int) for item in prompt):
        only = [item for item in prompt if isinstance(item, int)]
    elif len(prompt) == 1 and not isinstance(prompt[0], int):
        only = prompt[0]
    else:
        raise ValidationError("`prompt` must be one text or one list of token ids", "prompt")
    if not only:
        raise ValidationError("`prompt` cannot be empty", "prompt")
    return only


def _request(
    body: OpenAIBody,
    ids: list[int],
    max_new_tokens: int | None,
    top_n_tokens: int,
    limits: Limits,
    random_seed: int,
) -> GenerationRequest:
    prompt_field = "messages" if isinstance(body, ChatBody) else "prompt"
    stopping = StoppingParams(
        max_new_tokens=allowed_tokens(ids, max_new_tokens, limits, prompt_field, "max_tokens"),
        stop_sequences=_stop_sequences(body),
        ignore_eos=bool(body.ignore_eos),
        keep_stop=False,
    )
    return GenerationRequest(prompt_ids=ids, sampling=sampling_of(body, top_n_tokens, random_seed), stopping=stopping)

"""From what a client of the OpenAI API wrote to requests to the engine, or to the first rule it breaks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from tokenizers import Tokenizer

from tgi_server.errors import ValidationError
from tgi_server.router.chat.conversation import Conversation, prepare
from tgi_server.router.chat.reasoning import effort_variables
from tgi_server.router.chat.template import ChatTemplate, Rendering
from tgi_server.router.chat.tool_choice import usable
from tgi_server.router.http import grammars
from tgi_server.router.http.limits import (
    Limits,
    Prepared,
    Prompt,
    check_stop,
    check_top_n,
    context_tokens,
    tokenise,
    variants,
    with_grammar,
)
from tgi_server.router.http.rules import check_above_zero, check_penalty
from tgi_server.router.http.wire import MAX_UINT64
from tgi_server.router.openai.requests import ChatBody, CompletionBody, OpenAIBody
from tgi_server.router.openai.unserved import check_unserved
from tgi_server.types import GenerationRequest, SamplingParams, StoppingParams

COMPLETION_TOKENS = 16
"""`max_tokens` of a completion that does not say; a chat may then fill up the model's context."""

MOST_CHOICES = 128
"""The largest `n` and `best_of`, as OpenAI documents it for `n`."""

LARGEST_BIAS = 100.0
MOST_BIASES = 1024


def texts(body: OpenAIBody) -> int:
    """How many texts a request has generated, of which it may get fewer back."""
    if isinstance(body, CompletionBody):
        return len(prompts_of(body)) * max(body.n or 1, body.best_of or 1)
    return body.n or 1


def check_texts(body: OpenAIBody, limits: Limits) -> int:
    """The rules for how many texts may be generated, which come before a place is taken for each; and how many.

    Raises:
        ValidationError: see above.
    """
    n, best_of = body.n, body.best_of if isinstance(body, CompletionBody) else None
    for name, value in (("n", n), ("best_of", best_of)):
        if value is not None and not 1 <= value <= MOST_CHOICES:
            raise ValidationError(f"`{name}` must be >= 1 and <= {MOST_CHOICES}. Given: {value}", name)
    if best_of is not None and best_of != (n or 1):
        if best_of < (n or 1):
            raise ValidationError("`best_of` must not be less than `n`", "best_of")
        if best_of > limits.max_best_of:
            raise ValidationError(f"`best_of` above `n` must be <= {limits.max_best_of}. Given: {best_of}", "best_of")
        if body.stream:
            raise ValidationError("`best_of` must not be greater than `n` when streaming", "best_of")
    asked = texts(body)
    if asked > limits.max_candidates:
        raise ValidationError(f"at most {limits.max_candidates} texts a request can be generated. Given: {asked}", "n")
    return asked


def chat(
    body: ChatBody, template: ChatTemplate | None, limits: Limits, tokenizer: Tokenizer, random_seed: int
) -> Prepared:
    """Check, render and tokenise a conversation.

    Raises:
        ValidationError: the first rule the request breaks.
        TemplateError: there is no template, or it refused the conversation.
    """
    return prepare(conversation_of(body, limits, random_seed), template, limits, tokenizer)


def conversation_of(body: ChatBody, limits: Limits, random_seed: int) -> Conversation:
    """What a chat request asks for; `random_seed` is used where the client gives none.

    Raises:
        ValidationError: the first rule the request breaks.
    """
    check_fields(body, limits)
    if body.top_logprobs and not body.logprobs:
        raise ValidationError("`top_logprobs` needs `logprobs` to be true", "top_logprobs")
    check_top_n("top_logprobs", body.top_logprobs or 0, limits)
    check_above_zero("max_completion_tokens", body.max_completion_tokens)
    check_above_zero("max_tokens", body.max_tokens)
    tools, required, several = usable(body.tools or [], body.tool_choice)
    return Conversation(
        messages=body.messages,
        rendering=rendering_of(body),
        tools=tools,
        required=required,
        parallel=several and body.parallel_tool_calls is not False,
        format=body.response_format,
        sampling=replace(sampling_of(body, limits, random_seed), top_n_tokens=body.top_logprobs or 0),
        max_new_tokens=body.max_tokens if body.max_completion_tokens is None else body.max_completion_tokens,
        stop_sequences=_stop_sequences(body),
        ignore_eos=bool(body.ignore_eos),
        texts=texts(body),
    )


def rendering_of(body: ChatBody) -> Rendering:
    """How a chat request wants its conversation rendered.

    Raises:
        ValidationError: the answer is to begin a turn and to go on with one.
    """
    goes_on = bool(body.continue_final_message)
    if goes_on and body.add_generation_prompt:
        message = "`continue_final_message` and `add_generation_prompt` cannot both be true"
        raise ValidationError(message, "continue_final_message")
    variables = effort_variables(body.reasoning_effort) | (body.chat_template_kwargs or {})
    return Rendering(body.add_generation_prompt is not False, goes_on, variables)


def completion(body: CompletionBody, limits: Limits, tokenizer: Tokenizer, random_seed: int) -> Prepared:
    """Check and tokenise a completion request.

    Raises:
        ValidationError: the first rule the request breaks.
    """
    check_fields(body, limits)
    check_top_n("logprobs", body.logprobs or 0, limits)
    if body.max_tokens != 0 or not body.echo:  # which asks for nothing but the prompt
        check_above_zero("max_tokens", body.max_tokens)
    top = body.logprobs or 0
    sampling = replace(sampling_of(body, limits, random_seed), top_n_tokens=top)
    if body.echo and body.logprobs is not None:
        if not limits.scores_prompts:
            raise ValidationError("this model reads prompts with an encoder and has no scores of them", "logprobs")
        sampling = replace(sampling, prompt_logprobs=True, prompt_top_tokens=top)
    grammar = _grammar(body)
    prompts = []
    for prompt in prompts_of(body):
        if not prompt:
            raise ValidationError("`prompt` cannot be empty", "prompt")
        text, ids = (prompt, tokenise(tokenizer, prompt)) if isinstance(prompt, str) else ("", prompt)
        asked = COMPLETION_TOKENS if body.max_tokens is None else max(body.max_tokens, 1)
        max_new_tokens = context_tokens(ids, asked, limits, "prompt")
        stopping = _stopping(body, max_new_tokens)
        request = GenerationRequest(prompt_ids=ids, sampling=sampling, stopping=stopping, echo=bool(body.echo))
        request = with_grammar(request, grammar, limits)
        if body.echo and not text:
            text = tokenizer.decode(ids, skip_special_tokens=False)
        prompts.append(Prompt(text, variants(request, max(body.n or 1, body.best_of or 1))))
    if not prompts:
        raise ValidationError("`prompt` cannot be empty", "prompt")
    return Prepared(prompts)


def prompts_of(body: CompletionBody) -> Sequence[str | list[int]]:
    """The prompts: texts, or lists of token ids. A list of integers is one prompt.

    Raises:
        ValidationError: single token ids stand beside texts or lists.
    """
    prompt = body.prompt
    if isinstance(prompt, str):
        return [prompt]
    ids = [item for item in prompt if isinstance(item, int)]
    if ids and len(ids) < len(prompt):
        raise ValidationError("`prompt` must be texts, or token ids, or lists of these", "prompt")
    return [ids] if ids else [item for item in prompt if not isinstance(item, int)]


def check_fields(body: OpenAIBody, limits: Limits) -> None:
    """Refuse what is not served, and numbers outside of the ranges that OpenAI documents.

    Raises:
        ValidationError: see above.
    """
    check_unserved(body)
    if body.stream_options is not None and not body.stream:
        raise ValidationError("`stream_options` is only allowed when `stream` is true", "stream_options")
    if body.temperature is not None and not 0.0 <= body.temperature <= 2.0:
        raise ValidationError("`temperature` must be >= 0.0 and <= 2.0", "temperature")
    if body.temperature:
        check_above_zero("temperature", body.temperature)
    for name, share in (("top_p", body.top_p), ("typical_p", body.typical_p)):
        if share is not None and not 0.0 < share <= 1.0:
            raise ValidationError(f"`{name}` must be > 0.0 and <= 1.0", name)
    if body.min_p is not None and not 0.0 <= body.min_p <= 1.0:
        raise ValidationError("`min_p` must be >= 0.0 and <= 1.0", "min_p")
    if body.top_k is not None and body.top_k < -1:
        raise ValidationError("`top_k` must be positive, or 0 or -1 to switch it off", "top_k")
    check_above_zero("repetition_penalty", body.repetition_penalty)
    check_penalty("frequency_penalty", body.frequency_penalty)
    check_penalty("presence_penalty", body.presence_penalty)
    check_stop(_stop_sequences(body), limits)


def sampling_of(body: OpenAIBody, limits: Limits, random_seed: int) -> SamplingParams:
    """How to pick tokens: random unless the temperature is 0, which switches every filter off.

    Raises:
        ValidationError: `logit_bias` names something that is no token, or adds too much to it.
    """
    greedy = body.temperature == 0
    return SamplingParams(
        do_sample=not greedy,
        temperature=1.0 if greedy or body.temperature is None else body.temperature,
        top_k=0 if greedy else max(body.top_k or 0, 0),
        top_p=1.0 if greedy or body.top_p is None else body.top_p,
        typical_p=1.0 if greedy or body.typical_p is None else body.typical_p,
        min_p=0.0 if greedy else body.min_p or 0.0,
        repetition_penalty=1.0 if body.repetition_penalty is None else body.repetition_penalty,
        frequency_penalty=body.frequency_penalty or 0.0,
        presence_penalty=body.presence_penalty or 0.0,
        logit_bias=_logit_bias(body.logit_bias or {}, limits),
        watermark=bool(body.watermark),
        seed=random_seed if body.seed is None else body.seed & MAX_UINT64,
    )


def _logit_bias(bias: Mapping[str, float], limits: Limits) -> dict[int, float]:
    if len(bias) > MOST_BIASES:
        raise ValidationError(f"`logit_bias` must have at most {MOST_BIASES} tokens. Given: {len(bias)}", "logit_bias")
    for key, value in bias.items():
        if not (key.isascii() and key.isdigit() and len(key) < 12 and int(key) < limits.vocab_size):
            message = f"`logit_bias`: the model has no token {key[:20]!r}"
            raise ValidationError(message, "logit_bias", logged="`logit_bias`: no token of the model")
        if not -LARGEST_BIAS <= value <= LARGEST_BIAS:
            raise ValidationError(f"`logit_bias` must be >= -100 and <= 100. Given: {value}", "logit_bias")
    return {int(key): value for key, value in bias.items()}


def _stop_sequences(body: OpenAIBody) -> tuple[str, ...]:
    return (body.stop,) if isinstance(body.stop, str) else tuple(body.stop or ())


def _grammar(body: OpenAIBody) -> str | None:
    return None if body.response_format is None else grammars.of_format(body.response_format, "response_format")


def _stopping(body: OpenAIBody, max_new_tokens: int) -> StoppingParams:
    return StoppingParams(
        max_new_tokens=max_new_tokens,
        stop_sequences=_stop_sequences(body),
        ignore_eos=bool(body.ignore_eos),
        keep_stop=False,
    )

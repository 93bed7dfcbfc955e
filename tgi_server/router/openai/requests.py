"""What clients of the OpenAI API send."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from msgspec import Meta, Struct

from tgi_server.errors import TgiError
from tgi_server.router.chat.messages import Message, Tool, ToolChoice
from tgi_server.router.http.formats import Format
from tgi_server.router.http.wire import Body, Int32, UInt32, fits_64_bits
from tgi_server.router.openai.errors import error_status


class StreamOptions(Struct, frozen=True, omit_defaults=True):
    """When a stream of the OpenAI API reports token counts: in a last chunk, and in every chunk."""

    include_usage: bool | None = None
    """Send the token counts in one more chunk at the end."""
    continuous_usage_stats: bool | None = None
    """Send the token counts so far in every chunk."""


class OpenAIBody(Body, frozen=True, kw_only=True, omit_defaults=True):
    """What the chat and the completion request share. The last fields are read to be refused."""

    GUIDES: ClassVar[tuple[str, ...]] = ("response_format",)

    model: str | None = None
    """Any name. The answer is that of the one model that is served."""
    temperature: float | None = None
    """From 0 to 2. 0 takes the likeliest token each time. 1.0 if it is not given."""
    top_p: float | None = None
    """Above 0, at most 1. Choose among the likeliest tokens that have this probability together. 1.0 if it is not
    given."""
    top_k: Int32 | None = None
    """Choose among so many of the likeliest tokens; 0 and -1 stand for all of them, as if it were not given. Not in
    OpenAI's API."""
    repetition_penalty: float | None = None
    """Above 0. Scores of tokens that were there before are divided by it (multiplied where they are negative). 1.0 if
    it is not given. Not in OpenAI's API."""
    frequency_penalty: float | None = None
    """From -2 to 2. So much is taken off the score of a token for each time that it was generated before. 0.0 if it is
    not given."""
    seed: int | None = None
    """Of the random choices, an integer of 64 bits: the same request with the same seed has the same answer. A random
    one if it is not given."""
    stop: str | list[str] | None = None
    """A text that ends the generation, or a list of at most `max_stop_sequences` of `/info`. It is left out of the
    answer."""
    stream: bool | None = None
    """Send the answer piece by piece, as server-sent events. `false` if it is not given."""
    stream_options: StreamOptions | None = None
    """Allowed with `stream` only."""
    ignore_eos: bool | None = None
    """Go on after the model's end-of-sequence token. Not in OpenAI's API."""
    n: Int32 | None = None
    """So many texts for each prompt, from 1 to 128; together at most `max_concurrent_requests` of `/info`. 1 if it is
    not given."""
    presence_penalty: float | None = None
    """From -2 to 2. So much is taken off the score of a token that was generated before. 0.0 if it is not given."""
    logit_bias: dict[str, float] | None = None
    """What is added to the scores of tokens, by their ids: from -100 to 100."""
    min_p: float | None = None
    """From 0 to 1. Only tokens that have at least this share of the likeliest one's probability are chosen. 0.0 if it
    is not given. Not in OpenAI's API."""
    typical_p: float | None = None
    """Above 0, at most 1. Choose among the tokens that are the most typical ones and have this probability together.
    1.0 if it is not given. Not in OpenAI's API."""
    watermark: bool | None = None
    """Mark the text so that a program can tell later that it was generated. Not in OpenAI's API."""
    response_format: Format | None = None
    """What the text has to look like. Any text if it is not given."""
    min_tokens: Any = None
    """Not served: anything but 0 is refused."""
    stop_token_ids: Any = None
    """Not served: anything but an empty list is refused."""
    allowed_token_ids: Any = None
    """Not served."""
    bad_words: Any = None
    """Not served: use `logit_bias`."""
    use_beam_search: Any = None
    """Not served: anything but `false` is refused."""
    include_stop_str_in_output: Any = None
    """Not served: anything but `false` is refused."""
    skip_special_tokens: Any = None
    """Not served: anything but `true` is refused."""
    prompt_logprobs: Any = None
    """Not served: `echo` of a completion has them."""
    truncate_prompt_tokens: Any = None
    """Not served."""
    guided_json: Any = None
    """Not served: use `response_format`."""
    guided_regex: Any = None
    """Not served: use `response_format`."""
    guided_choice: Any = None
    """Not served: use `response_format`."""
    guided_grammar: Any = None
    """Not served: use `response_format`."""
    structured_outputs: Any = None
    """Not served: use `response_format`."""
    json_schema: Any = None
    """Not served: use `response_format`."""
    grammar: Any = None
    """Not served: use `response_format`."""

    def __post_init__(self) -> None:
        fits_64_bits(seed=self.seed)

    def status_of(self, error: TgiError) -> int:
        """See `Body`."""
        return error_status(error)


class ChatBody(OpenAIBody, frozen=True, kw_only=True, omit_defaults=True):
    """Body of `/v1/chat/completions`."""

    GUIDES = ("response_format", "tools")
    OPERATION = "chat"

    messages: Annotated[list[Message], Meta(min_length=1)]
    """The conversation so far. What roles there are is up to the model's chat template."""
    max_tokens: UInt32 | None = None
    """Above 0. The longest answer, in tokens. If it is not given, as many as fit. `max_completion_tokens` wins."""
    max_completion_tokens: UInt32 | None = None
    """Above 0. The longest answer, in tokens. If it is not given, as many as fit."""
    logprobs: bool | None = None
    """Tell the tokens with their log-probabilities."""
    top_logprobs: UInt32 | None = None
    """Tell so many of the likeliest tokens at each step as well. It needs `logprobs`. The option `max_top_n_tokens` of
    the server limits it, 5 by default."""
    tools: list[Tool] | None = None
    """Functions that the model may call. Their arguments always follow their JSON schemas."""
    tool_choice: str | ToolChoice | None = None
    """`none`, `auto` (which is what counts if it is not given), `required`, the function that has to be called, or
    those that are allowed."""
    parallel_tool_calls: bool | None = None
    """Whether there may be several calls. `true` if it is not given."""
    add_generation_prompt: bool | None = None
    """Let a turn of the assistant's begin where the messages end. `true` if it is not given, but beside
    `continue_final_message`. Not in OpenAI's API."""
    continue_final_message: bool | None = None
    """Go on with the last message, which has to be the assistant's: the answer is what comes behind it. Not in OpenAI's
    API."""
    chat_template_kwargs: dict[str, Any] | None = None
    """More variables for the chat template, such as `enable_thinking`. Not in OpenAI's API."""
    reasoning_effort: str | None = None
    """How much is thought before the answer, in words that the model's chat template knows, such as `low` or `high`;
    `none` where it can be told to think nothing. As the model has it if it is not given."""
    include_reasoning: bool | None = None
    """Whether what the model thinks is told, as `reasoning_content` and `reasoning`; it is counted and left out of the
    content either way. `true` if it is not given. Not in OpenAI's API."""
    functions: Any = None
    """Not served: use `tools`."""
    function_call: Any = None
    """Not served: use `tool_choice`."""
    modalities: Any = None
    """Not served: anything but `["text"]` is refused."""
    audio: Any = None
    """Not served."""
    web_search_options: Any = None
    """Not served."""
    moderation: Any = None
    """Not served."""
    chat_template: Any = None
    """Not served."""
    documents: Any = None
    """Not served: use `chat_template_kwargs`."""


class CompletionBody(OpenAIBody, frozen=True, kw_only=True, omit_defaults=True):
    """Body of `/v1/completions`. A list of integers is one prompt given as token ids."""

    prompt: str | list[str | int | list[int]]
    """A text, a list of token ids, or a list of several texts and lists of ids."""
    max_tokens: UInt32 | None = None
    """Above 0, or 0 with `echo`. The longest answer, in tokens. 16 if it is not given."""
    logprobs: UInt32 | None = None
    """Tell the tokens with their log-probabilities, and so many of the likeliest ones at each step. The option
    `max_top_n_tokens` of the server limits it, 5 by default."""
    best_of: Int32 | None = None
    """Generate so many texts for each prompt, and answer with the `n` likeliest. Above `n` it is at most `max_best_of`
    of `/info`, and cannot be streamed. `n` if it is not given."""
    echo: bool | None = None
    """Put the prompt before the text."""
    suffix: Any = None
    """Not served: anything but an empty text is refused."""

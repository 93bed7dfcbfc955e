"""A conversation that the assistant goes on with: what is asked, whichever API it came by, and what becomes of it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from tokenizers import Tokenizer

from tgi_server.engine.thoughts import ThoughtReader
from tgi_server.errors import TemplateError, ValidationError
from tgi_server.router.chat import tools
from tgi_server.router.chat.contents import text_of
from tgi_server.router.chat.messages import Message, Tool
from tgi_server.router.chat.reader import AnswerReader, CallReader
from tgi_server.router.chat.reasoning import after_thoughts
from tgi_server.router.chat.template import ChatTemplate, Rendering
from tgi_server.router.http import grammars
from tgi_server.router.http.formats import Format, RegexFormat, TextFormat
from tgi_server.router.http.limits import Limits, Prepared, Prompt, context_tokens, tokenise, variants, with_grammar
from tgi_server.types import GenerationRequest, Mark, Reasoning, SamplingParams, StoppingParams


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """What an assistant is asked for.

    Attributes:
        messages: so far.
        rendering: how they become a prompt.
        tools: that the answer may use.
        required: it has to use one.
        parallel: it may hold several calls.
        format: what an answer that is no call has to look like, None for any text.
        sampling: how to pick tokens.
        max_new_tokens: None for as many as fit.
        cut_to_fit: where more tokens are asked for than fit, as many as fit are meant as well.
        stop_sequences: that end the answer and are left out of it.
        ignore_eos: whether to go on after the model's end-of-sequence token.
        texts: how many answers to make.
    """

    messages: Sequence[Message]
    rendering: Rendering = field(default_factory=Rendering)
    tools: Sequence[Tool] = ()
    required: bool = False
    parallel: bool = True
    format: Format | None = None
    sampling: SamplingParams
    max_new_tokens: int | None = None
    cut_to_fit: bool = False
    stop_sequences: tuple[str, ...] = ()
    ignore_eos: bool = False
    texts: int = 1


@dataclass(frozen=True, slots=True)
class PreparedConversation(Prepared):
    """A conversation that may go on; `template` is the one it was rendered with.

    `reasoning` is what answers may have of thoughts, None for nothing, or for thoughts that are told as text. `special`
    are the texts of the tokenizer's special tokens.
    """

    conversation: Conversation
    template: ChatTemplate
    reasoning: Reasoning | None
    special: Collection[str]

    def reader(self) -> AnswerReader:
        """What takes one answer apart."""
        thoughts = None if self.reasoning is None else ThoughtReader(self.reasoning, self.special)
        if not self.conversation.tools:
            return AnswerReader(None, thoughts)
        return AnswerReader(CallReader(_mark(self.conversation, self.template, self.special)), thoughts)


def prepare(
    conversation: Conversation, template: ChatTemplate | None, limits: Limits, tokenizer: Tokenizer
) -> PreparedConversation:
    """Render and tokenise a conversation, and make the grammar of its answer.

    Raises:
        ValidationError: a message or a tool cannot be used, or the conversation is too long.
        TemplateError: there is no template, or it refused the conversation.
    """
    template = _known(template)
    text, ids = rendered(conversation, template, tokenizer)
    max_new_tokens = _max_new_tokens(conversation, ids, limits)
    special = {token.content: id for id, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    reasoning = _reasoning(conversation, template, text) if limits.reasoning else None
    stopping = StoppingParams(
        max_new_tokens=max_new_tokens,
        stop_sequences=() if conversation.required else conversation.stop_sequences,
        ignore_eos=conversation.ignore_eos,
        keep_stop=False,
        content_until=_mark(conversation, template, special),
        reasoning=reasoning,
    )
    request = GenerationRequest(prompt_ids=ids, sampling=conversation.sampling, stopping=stopping)
    grammar, close = _grammar(conversation, template, special), list[int]()
    if grammar is not None and reasoning is not None:
        grammar = after_thoughts(reasoning, grammar, special)
        close = tokenise(tokenizer, reasoning.end, add_special_tokens=False) if _is_guided(conversation) else []
    request = with_grammar(request, grammar, limits, close)
    prompt = Prompt(text, variants(request, conversation.texts))
    return PreparedConversation([prompt], conversation, template, reasoning, special)


def _reasoning(conversation: Conversation, template: ChatTemplate, prompt: str) -> Reasoning | None:
    """What the answer may have of thoughts. Where it goes on with a message, that one may have ended them."""
    format, last = template.reasoning_format, len(conversation.messages) - 1
    if format is None:
        return None
    begun = text_of(conversation.messages[last], last).strip() if conversation.rendering.continue_final else ""
    return format.within(begun) if begun else format.after(prompt)


def rendered(conversation: Conversation, template: ChatTemplate | None, tokenizer: Tokenizer) -> tuple[str, list[int]]:
    """The prompt of a conversation, as text and as token ids. Raises what `prepare` raises."""
    text = _known(template).render(conversation.messages, conversation.tools, conversation.rendering)
    return text, tokenise(tokenizer, text, add_special_tokens=False)  # the template has written the special ones


def _known(template: ChatTemplate | None) -> ChatTemplate:
    if template is None:
        raise TemplateError("the model has no chat template")
    return template


def _max_new_tokens(conversation: Conversation, ids: Sequence[int], limits: Limits) -> int:
    asked = conversation.max_new_tokens
    if asked is None or not conversation.cut_to_fit:
        return context_tokens(ids, asked, limits, "messages")
    return min(asked, context_tokens(ids, None, limits, "messages"))


def _mark(conversation: Conversation, template: ChatTemplate, special: Collection[str]) -> Mark | None:
    """Where the content of an answer ends and its calls begin; None where one of them is all there is."""
    if conversation.required or not conversation.tools:
        return None
    return template.tool_format.mark(special, first=_is_guided(conversation))


def _is_guided(conversation: Conversation) -> bool:
    """An answer cannot be just any text."""
    return conversation.required or not isinstance(conversation.format, TextFormat | None)


def _grammar(conversation: Conversation, template: ChatTemplate, special: Mapping[str, int]) -> str | None:
    format = conversation.format
    if not conversation.tools:
        return None if format is None else grammars.of_format(format, "response_format")
    if isinstance(format, RegexFormat):
        raise ValidationError("a regular expression cannot be combined with `tools`", "response_format")
    schema = None
    if format is not None and not conversation.required:
        schema = grammars.schema_of(format, "response_format")
    return tools.grammar(
        conversation.tools,
        template.tool_format,
        special,
        required=conversation.required,
        parallel=conversation.parallel,
        schema=schema,
    )

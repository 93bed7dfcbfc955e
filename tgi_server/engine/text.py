"""From token ids to the text events a client sees."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

from tgi_server.engine.stopping import StopMatcher
from tgi_server.types import Finish, FinishReason, GenerationRequest, Token, TokenEvent, TopTokens

CONTEXT = 5
"""Prompt tokens decoded along with the first new ones: whether a word starts with a space depends on them."""

UNFINISHED = "\ufffd"
"""What a decoder writes for the bytes of an unfinished character."""


class Vocabulary:
    """What single token ids look like."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.special = {
            id: token.content for id, token in tokenizer.get_added_tokens_decoder().items() if token.special
        }

    def token(self, id: int, logprob: float | None) -> Token:
        """Token `id` decoded on its own."""
        text = self.tokenizer.decode([id], skip_special_tokens=False)
        return Token(id, text, logprob, id in self.special)

    def prompt(self, ids: Sequence[int], logprobs: Sequence[float], tops: Sequence[TopTokens] = ()) -> list[TokenEvent]:
        """The tokens of a prompt; `logprobs[i]` and `tops[i]`, if any, belong to `ids[i + 1]`, the first has none."""
        tokens = [self.token(id, logprob) for id, logprob in zip(ids, [None, *logprobs], strict=True)]
        alternatives = [[], *(self.top(top) for top in tops)] if tops else [[] for _ in ids]
        return [TokenEvent(token, top) for token, top in zip(tokens, alternatives, strict=True)]

    def top(self, top: TopTokens) -> list[Token]:
        """The alternatives at one position."""
        return [self.token(id, logprob) for id, logprob in zip(top.ids, top.logprobs, strict=True)]


class Detokenizer:
    """Decodes one sequence token by token; complete characters are given out at once, never parts of one."""

    def __init__(self, vocabulary: Vocabulary, prompt_ids: Sequence[int]) -> None:
        self._tokenizer = vocabulary.tokenizer
        self._stream: DecodeStream
        self._context: list[int]  # decoded before the next tokens, its text has been given out
        self._pending: list[int]  # tokens whose last character is not complete
        self._shown: int  # characters of the pending tokens that have been given out
        context = list(prompt_ids[-CONTEXT:])
        partial: list[int] = []
        while context and self._decode(context).endswith(UNFINISHED):
            partial.insert(0, context.pop())
        self._restart(context)
        for id in partial:  # a prompt may end inside a character; the new tokens complete it
            self.push(id)

    def push(self, id: int) -> str:
        """The text that token `id` completes."""
        try:
            text = self._stream.step(self._tokenizer, id)
        except Exception:  # "invalid prefix", for which the library has no narrower class: bytes that are no character
            return self._skip_pending(id)
        if text is None:
            self._pending.append(id)
            return self._show(self._complete_part())
        new = text[self._shown :]
        self._context, self._pending, self._shown = [*self._pending, id], [], 0
        return new

    def _skip_pending(self, id: int) -> str:
        text = self._decode([*self._context, id])[len(self._decode(self._context)) :]
        self._restart([id])
        return text

    def _complete_part(self) -> str:
        """The text of the pending tokens up to the unfinished character."""
        context = self._decode(self._context)
        return self._decode([*self._context, *self._pending])[len(context) :].rstrip(UNFINISHED)

    def _show(self, text: str) -> str:
        new = text[self._shown :]
        self._shown += len(new)
        return new

    def _restart(self, context: list[int]) -> None:
        self._stream = DecodeStream(ids=context, skip_special_tokens=False)
        self._context, self._pending, self._shown = context, [], 0

    def _decode(self, ids: list[int]) -> str:
        return self._tokenizer.decode(ids, skip_special_tokens=False)


class GenerationText:
    """The events of one generation, from its tokens.

    Events whose text may still become a stop sequence are kept until that is decided; the texts of the events that
    are not special tokens join to the generated text.

    Args:
        context: the ids before the text, which it continues; none for a text that begins anew.
    """

    def __init__(self, vocabulary: Vocabulary, request: GenerationRequest, context: Sequence[int]) -> None:
        self._vocabulary = vocabulary
        self._sampling = request.sampling
        self._stopping = request.stopping
        self._detokenizer = Detokenizer(vocabulary, context)
        self._matcher = StopMatcher(request.stopping.stop_sequences)
        self._held: list[TokenEvent] = []
        self._held_length = 0  # characters
        self._shown: list[str] = []  # texts given out, without special tokens
        self._tokens = 0

    def push(self, id: int, logprob: float, top: TopTokens | None, finish: FinishReason | None) -> list[TokenEvent]:
        """The events that token `id` releases. The last one has `finish` set when the generation ends with it,
        because `finish` says so or because a stop sequence is complete."""
        text = self._detokenizer.push(id)
        special = self._vocabulary.special.get(id)
        token = Token(id, text if special is None else special, logprob, special is not None)
        self._held.append(TokenEvent(token, [] if top is None else self._vocabulary.top(top)))
        self._held_length += len(token.text)
        self._tokens += 1
        if finish is not FinishReason.EOS_TOKEN:
            match = self._matcher.feed(token.text)
            if match is not None:
                self._cut(self._held_length - len(token.text) + match[self._stopping.keep_stop])
                finish = FinishReason.STOP_SEQUENCE
        return self._release() if finish is None else self._end(finish)

    def _cut(self, length: int) -> None:
        """Keep the first `length` characters of the held events."""
        for index, event in enumerate(self._held):
            text = event.token.text[:length]
            length -= len(text)
            self._held[index] = replace(event, token=replace(event.token, text=text))

    def _release(self) -> list[TokenEvent]:
        """Give out the events that end before the first character that may begin a stop sequence."""
        undecided = self._matcher.undecided
        if not undecided:
            return self._give(len(self._held))
        decided, count = self._held_length - undecided, 0
        for event in self._held:
            decided -= len(event.token.text)
            if decided < 0:
                break
            count += 1
        return self._give(count)

    def _give(self, count: int) -> list[TokenEvent]:
        events, self._held = self._held[:count], self._held[count:]
        for event in events:
            self._held_length -= len(event.token.text)
            if not event.token.special:
                self._shown.append(event.token.text)
        return events

    def _end(self, reason: FinishReason) -> list[TokenEvent]:
        events = self._give(len(self._held))
        seed = self._sampling.seed if self._sampling.samples else None
        finish = Finish(reason, "".join(self._shown), self._tokens, seed)
        events[-1] = replace(events[-1], finish=finish)
        return events

"""From token ids to the text events a client sees."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from tokenizers import Tokenizer

from tgi_server.engine.detokenizer import ContextDetokenizer, Detokenizer, PieceDetokenizer
from tgi_server.engine.pieces import pieces
from tgi_server.engine.stopping import StopMatcher
from tgi_server.engine.thoughts import ThoughtReader
from tgi_server.types import Finish, FinishReason, GenerationRequest, Token, TokenEvent, TopTokens


class Vocabulary:
    """What tokens look like, and which are special."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.special = {
            id: token.content for id, token in tokenizer.get_added_tokens_decoder().items() if token.special
        }
        self._pieces = pieces(tokenizer)
        self._texts: dict[int, str] = {}

    def detokenizer(self, context: Sequence[int]) -> Detokenizer:
        """For a text that comes after the ids `context`."""
        if self._pieces is not None:
            return PieceDetokenizer(self._pieces, self.special, context)
        return ContextDetokenizer(self.tokenizer, self.special, context)

    def token(self, id: int, logprob: float | None) -> Token:
        """Token `id` decoded on its own."""
        text = self.tokenizer.decode([id], skip_special_tokens=False)
        return Token(id, text, logprob, id in self.special)

    def next(self, detokenizer: Detokenizer, id: int, logprob: float | None) -> Token:
        """Token `id` as what it adds to a text; a special one as it is, which is no part of it."""
        special = self.special.get(id)
        if special is None:
            return Token(id, detokenizer.push(id), logprob)
        detokenizer.interrupt()
        return Token(id, special, logprob, special=True)

    def prompt(
        self, ids: Sequence[int], logprobs: Sequence[float], tops: Sequence[TopTokens] = (), joined: bool = False
    ) -> list[TokenEvent]:
        """The tokens of a prompt, each decoded on its own or, `joined`, as what it adds to the prompt's text.

        `logprobs[i]` and `tops[i]`, if any, belong to `ids[i + 1]`, the first has none.
        """
        token = partial(self.next, self.detokenizer(())) if joined else self.token
        tokens = [token(id, logprob) for id, logprob in zip(ids, [None, *logprobs], strict=True)]
        alternatives = [[], *(self.top(top) for top in tops)] if tops else [[] for _ in ids]
        return [TokenEvent(token, top) for token, top in zip(tokens, alternatives, strict=True)]

    def top(self, top: TopTokens) -> list[Token]:
        """The alternatives at one position, with the space before a word that the chosen token is told with."""
        return [
            Token(id, self._within(id), logprob, id in self.special)
            for id, logprob in zip(top.ids, top.logprobs, strict=True)
        ]

    def _within(self, id: int) -> str:
        """What token `id` looks like within a text: what it adds to itself."""
        text = self.special.get(id, self._texts.get(id))
        if text is None:
            once, twice = (self.tokenizer.decode([id] * times, skip_special_tokens=False) for times in (1, 2))
            text = self._texts[id] = twice[len(once) :]
        return text


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
        self._detokenizer = vocabulary.detokenizer(context)
        self._matcher = StopMatcher(self._stopping.stop_sequences, self._stopping.content_until)
        reasoning = self._stopping.reasoning if self._stopping.stop_sequences else None
        self._thoughts = None if reasoning is None else ThoughtReader(reasoning, vocabulary.special.values())
        self._held: list[TokenEvent] = []
        self._held_length = 0  # characters
        self._shown: list[str] = []  # texts given out, without special tokens
        self._tokens = 0

    def push(self, id: int, logprob: float, top: TopTokens | None, finish: FinishReason | None) -> list[TokenEvent]:
        """The events that token `id` releases. The last one has `finish` set when the generation ends with it,
        because `finish` says so or because a stop sequence is complete."""
        token = self._vocabulary.next(self._detokenizer, id, logprob)
        self._held.append(TokenEvent(token, [] if top is None else self._vocabulary.top(top)))
        self._held_length += len(token.text)
        self._tokens += 1
        length = self._stopped(self._content(token, finish is not None), finish)
        if length is not None:
            self._cut(length)
            finish = FinishReason.STOP_SEQUENCE
        return self._release() if finish is None else self._end(finish)

    def _content(self, token: Token, last: bool) -> list[Token]:
        """What is known to be content with this token: the end of what is held, or all of it if nothing is thought."""
        if self._thoughts is None:
            return [token]
        pieces = self._thoughts.read(token) + (self._thoughts.end() if last else [])
        return [piece for piece in pieces if isinstance(piece, Token)]

    def _stopped(self, content: Sequence[Token], finish: FinishReason | None) -> int | None:
        """How much of the held text is left where a stop sequence is complete in the new `content`; None if none is."""
        length = self._held_length - sum(len(token.text) for token in content)
        for left, token in zip(reversed(range(len(content))), content, strict=True):
            if token.special and self._ends_content(token.text):
                self._matcher.close()
            last = finish is not None and not left
            match = self._matcher.feed("" if last and finish is FinishReason.EOS_TOKEN else token.text, last)
            if match is not None:
                return length + match[self._stopping.keep_stop]
            length += len(token.text)
        return None

    def _ends_content(self, special: str) -> bool:
        mark = self._stopping.content_until
        return mark is not None and mark.special and mark.text == special

    def _cut(self, length: int) -> None:
        """Keep the first `length` characters of the held events."""
        for index, event in enumerate(self._held):
            text = event.token.text[:length]
            length -= len(text)
            self._held[index] = replace(event, token=replace(event.token, text=text))

    def _release(self) -> list[TokenEvent]:
        """Give out the events that end before the first character that may begin a stop sequence."""
        if self._thoughts is not None and self._thoughts.undecided:
            return []
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
        stop = self._matcher.matched if reason is FinishReason.STOP_SEQUENCE else None
        finish = Finish(reason, "".join(self._shown), self._tokens, seed, stop)
        events[-1] = replace(events[-1], finish=finish)
        return events

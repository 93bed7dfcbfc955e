"""Grammars that generated texts have to match: which tokens may come next, computed while the device works on the step.

The automaton is llguidance's. What is added is the end of the budget: a text that has to match is worth nothing cut
off, so a token after which it could no longer be ended in time is replaced by the first one of an ending.

Where tokens are guessed, the masks behind them come from a copy of the automaton that takes them as long as the
grammar does. What is picked there is no different from what it would have been in a step of its own.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path

from llguidance import LLMatcher, LLParserLimits, LLTokenizer

from tgi_server.shard.ending import LONGEST, Ending
from tgi_server.types import GUIDE_LIMITS, Guide


class Vocabulary:
    """A model's tokens as llguidance knows them. Raises ValueError for a tokenizer that it cannot read."""

    def __init__(self, tokenizer_json: Path, size: int, eos_token_ids: Sequence[int]) -> None:
        text = tokenizer_json.read_text(encoding="utf-8")
        self._limits = LLParserLimits(verbose_errors=False, **GUIDE_LIMITS)
        self.tokenizer = LLTokenizer(text, n_vocab=size, eos_token=list(eos_token_ids) or None)
        self.eos = frozenset(eos_token_ids)
        self.size = size
        texts = [self.tokenizer.decode_bytes([id]) for id in range(size)]
        self.ending = Ending(texts, self.tokenizer.eos_token)
        self.first_ending = lru_cache(maxsize=64)(self._first_ending)
        """The ending of a text that has not begun, by its grammar: the same for all choices of a request."""

    def matcher(self, grammar: str) -> LLMatcher:
        """An automaton at its beginning; raises nothing, errors are asked for."""
        return LLMatcher(self.tokenizer, grammar, log_level=0, limits=self._limits)

    def _first_ending(self, grammar: str, close: tuple[int, ...]) -> list[int] | None:
        return self.ending.find(self.matcher(grammar), close)


class GuidedSequence:
    """How far one text has got in its grammar.

    From where an ending could be too long for what is left, one that is short enough is always kept, as far as any is
    found; a token that leaves none is not taken.

    Attributes:
        failure: why it cannot go on; None while it can.
    """

    def __init__(self, vocabulary: Vocabulary, guide: Guide) -> None:
        self._vocabulary = vocabulary
        self._guide = guide
        self._matcher = vocabulary.matcher(guide.grammar)
        self._left = guide.max_tokens
        self._ending: list[int] | None = None
        self._look_at = LONGEST + 1  # tokens left at which to look for the ending next, while there is none
        self._over = False
        self._consumed: list[int] = []
        self._masked = math.inf  # how many tokens of the step under way may be taken
        self._looks_ahead = True
        self.failure: str | None = None
        self._note_failure()

    def allowed(self) -> bytes | None:
        """Which tokens may come next, a bit each; None when any may, because nothing counts any more."""
        if self._over or self.failure is not None:
            return None
        self._look()
        mask: bytes = self._matcher.compute_bitmask()
        self._note_failure()
        return mask

    def masks(self, drafts: Sequence[int]) -> list[bytes]:
        """Which tokens may come next, after the first draft, after the first two, and so on.

        The last mask is the one that forbids the draft after it, or allows the end. None at all where any token may
        come, because nothing counts any more.
        """
        self._masked = math.inf
        mask = self.allowed()
        if mask is None:
            return []
        masks = [mask]
        if drafts and self._looks_ahead and self.failure is None:
            masks += self._ahead(mask, drafts)
        self._masked = len(masks)
        return masks

    def _ahead(self, mask: bytes, drafts: Sequence[int]) -> Iterator[bytes]:
        """The masks after drafts that may come."""
        matcher = self._matcher.deep_copy()
        for draft in drafts:
            if not mask[draft // 8] >> draft % 8 & 1 or draft in self._vocabulary.eos:
                return
            matcher.consume_token(draft)
            mask = matcher.compute_bitmask()
            if matcher.is_error():
                self._recover()
                return
            yield mask

    def reach(self, drafts: Sequence[int]) -> int:
        """How many of the drafts the grammar allows one after the other; all where nothing counts any more."""
        if self._over or self.failure is not None:
            return len(drafts)
        if not self._looks_ahead:
            return 0
        count: int = self._matcher.validate_tokens([*drafts])
        if self._matcher.is_error():
            self._recover()
            return 0
        return count

    def _recover(self) -> None:
        """Begin again and get to where the text is: an automaton that failed takes its copies and its origin with it.

        What was too much ahead is a failure once the text really goes there, which it may not do.
        """
        self._looks_ahead = False
        self._matcher = self._vocabulary.matcher(self._guide.grammar)
        for token in self._consumed:  # with the masks, which leave traces in the automaton
            self._matcher.compute_bitmask()
            self._matcher.consume_token(token)
        self._matcher.compute_bitmask()
        self._note_failure()

    def follow(self, tokens: Sequence[int], drafts: Sequence[int]) -> list[int]:
        """Go on with as many of `tokens` as follow each other: token i + 1 was picked in the belief that draft i is
        token i. The last one may be another than was picked, see `take`."""
        taken: list[int] = []
        for token, draft in zip(tokens, [*drafts, None], strict=True):
            taken.append(self.take(token))
            if not taken[-1] == token == draft or len(taken) >= self._masked:
                break
        return taken

    def take(self, token: int) -> int:
        """Go on with `token`, or with the one that is returned where `token` would leave no time to end."""
        if self._over or self.failure is not None:
            return token
        self._look()
        if self._ending is not None and token not in self._vocabulary.eos:
            token = self._tried(token, self._ending)
        self._left -= 1
        if token in self._vocabulary.eos:
            self._over = True
        else:
            self._matcher.consume_token(token)
            self._consumed.append(token)
            self._note_failure()
        return token

    @property
    def complete(self) -> bool:
        """It has all its tokens, the last of which is not the end, but nothing else could follow."""
        return self._left <= 0 and not self._over and self.failure is None and bool(self._matcher.is_stopped())

    def _look(self) -> None:
        """Look for an ending when it is time; a second time in the same place does nothing."""
        if self._ending is None and self._left <= self._look_at:
            self._look_at = self._left // 2
            self._keep(self._found())

    def _found(self) -> list[int] | None:
        """An ending of the text so far."""
        if self._left == self._guide.max_tokens:
            return self._vocabulary.first_ending(self._guide.grammar, self._guide.close)
        return self._vocabulary.ending.find(self._matcher, self._guide.close)

    def _tried(self, token: int, ending: list[int]) -> int:
        if token != ending[0]:
            after = self._matcher.deep_copy()
            after.consume_token(token)
            if len(ending) <= self._left and self._vocabulary.ending.fits(after, ending):
                return token  # as most are: part of a text in quotes
            if self._keep(self._vocabulary.ending.find(after, self._guide.close), 1):
                return token
        self._ending = ending[1:]
        return ending[0]

    def _keep(self, ending: list[int] | None, used: int = 0) -> bool:
        """Keep an ending that what is left is enough for, after `used` tokens more; its last token need not come."""
        if ending is None or len(ending) - 1 > self._left - used:
            return False
        self._ending = ending
        return True

    def _note_failure(self) -> None:
        if self._matcher.is_error():
            reason = self._matcher.get_error().removesuffix("<non-verbose/>").strip()
            self.failure = f"the grammar cannot be followed any further: {reason}"

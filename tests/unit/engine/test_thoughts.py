"""Taking thoughts out of a text, however its tokens cut it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tgi_server.engine.thoughts import Thought, ThoughtReader
from tgi_server.types import Reasoning, Token

THINK = Reasoning("<think>", "</think>")
BEGUN = Reasoning("<think>", "</think>", begun=True)
HARMONY = Reasoning(
    "<|channel|>analysis<|message|>",
    "<|end|><|start|>assistant<|channel|>final<|message|>",
    direct="<|channel|>final<|message|>",
)
SPECIAL = ("<|channel|>", "<|message|>", "<|end|>", "<|start|>", "<|return|>")


def tokens(*texts: str) -> list[Token]:
    return [Token(0, text, 0.0, special=text in SPECIAL) for text in texts]


def read(reasoning: Reasoning, written: Sequence[Token], special: Sequence[str] = SPECIAL) -> tuple[str, str, int]:
    """The thoughts, the content with special tokens, and how many tokens came before it."""
    reader = ThoughtReader(reasoning, special)
    pieces = [piece for token in written for piece in reader.read(token)] + reader.end()
    kinds = [isinstance(piece, Thought) for piece in pieces]
    assert kinds == sorted(kinds, reverse=True)
    assert all(piece.text for piece in pieces if isinstance(piece, Thought))
    thoughts = "".join(piece.text for piece in pieces if isinstance(piece, Thought))
    return thoughts, "".join(piece.text for piece in pieces if isinstance(piece, Token)), reader.tokens


def expected(written: str, begun: bool) -> tuple[str, str]:
    """The thoughts and the content of a whole text."""
    opened = written.lstrip()
    if not begun and not opened.startswith("<think>"):
        return "", written
    thoughts, mark, content = (written if begun else opened.removeprefix("<think>")).partition("</think>")
    return (thoughts.strip("\n"), content.lstrip("\n")) if mark else (thoughts.lstrip("\n"), "")


@pytest.mark.parametrize(
    ("reasoning", "written", "thoughts", "content"),
    [
        (THINK, "<think>\nHm.\n</think>\n\nHi", "Hm.", "Hi"),
        (THINK, "\n<think>a\n\nb</think> Hi\n", "a\n\nb", " Hi\n"),
        (THINK, "<think>\n\n</think>\n\nHi", "", "Hi"),
        (THINK, "Hi <think>a</think>", "", "Hi <think>a</think>"),
        (THINK, "\n\nHi", "", "\n\nHi"),
        (THINK, "<thin", "", "<thin"),
        (THINK, "<think", "", "<think"),
        (THINK, "<think>a</think", "a</think", ""),
        (BEGUN, "a <think> b\n</think>c</think>", "a <think> b", "c</think>"),
        (BEGUN, "\na\n\n", "a\n\n", ""),
        (BEGUN, "</think>", "", ""),
        (BEGUN, "", "", ""),
    ],
)
@given(data=st.data())
def test_thoughts_and_content(
    reasoning: Reasoning, written: str, thoughts: str, content: str, data: st.DataObject
) -> None:
    cuts = data.draw(st.sets(st.integers(0, len(written))))
    pieces = [written[start:end] for start, end in pairwise([0, *sorted(cuts), len(written)])]
    assert read(reasoning, tokens(*pieces))[:2] == (thoughts, content)


@given(
    pieces=st.lists(st.text(st.sampled_from("<think>/\n a"), max_size=5) | st.sampled_from(["<think>", "</think>"])),
    begun=st.booleans(),
)
def test_any_text_is_read_as_if_it_came_at_once(pieces: list[str], begun: bool) -> None:
    thoughts, content, before = read(BEGUN if begun else THINK, tokens(*pieces))
    assert (thoughts, content) == expected("".join(pieces), begun)
    assert content or before == len(pieces) or not thoughts
    assert content.endswith("".join(pieces[before:]).lstrip("\n")) or before == 0


def test_marks_of_special_tokens_are_no_text() -> None:
    channel, message, end, start, final = SPECIAL
    answer = tokens(
        channel, "anal", "ysis", message, "We ", "think", end, start, "assistant", channel, "final", message
    )
    assert read(HARMONY, [*answer, *tokens("Hi", final)]) == ("We think", f"Hi{final}", len(answer))
    assert read(HARMONY, tokens(channel, "final", message, "Hi")) == ("", "Hi", 3)
    assert read(HARMONY, tokens(*HARMONY.begin)) == ("", HARMONY.begin, 0), "spelled out in ordinary tokens"
    spelled = [*answer[:6], *tokens(*HARMONY.end, final)]
    assert read(HARMONY, spelled) == (f"We think{HARMONY.end}", "", len(spelled))


def test_other_special_tokens_are_handed_on() -> None:
    assert read(THINK, tokens("<|end|>", "<think>")) == ("", "<|end|><think>", 0)
    assert read(BEGUN, tokens("a", "<|end|>", "b</think>", "\n", "<|start|>", "Hi")) == ("ab", "<|start|>Hi", 4)


def test_thoughts_are_held_back_no_longer_than_needed() -> None:
    reader = ThoughtReader(THINK)
    told = [reader.read(token) for token in tokens(" ", "<th", "ink>", "\n", "Hm", "\n", "</", "x")]
    assert told == [[], [], [], [], [Thought("Hm")], [], [], [Thought("\n</x")]]

"""Guided sequences, with llguidance and a real tokenizer, driven by a model that picks any allowed token."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch
from llguidance import LLMatcher, LLParserLimits

from tests.router_app import EOS_ID, TOKENIZER
from tgi_server.shard.ending import unpacked
from tgi_server.shard.guided import GuidedSequence, Vocabulary
from tgi_server.shard.guides import Guides
from tgi_server.types import Guide, NewSequence, Plan, SamplingParams

SIZE = TOKENIZER.get_vocab_size() + 7  # models are often padded


@pytest.fixture(scope="module")
def vocabulary(tokenizer_json: Path) -> Vocabulary:
    return Vocabulary(tokenizer_json, SIZE, [EOS_ID])


def write(
    vocabulary: Vocabulary, grammar: str, max_tokens: int, seed: int, close: tuple[int, ...] = ()
) -> tuple[str, bool]:
    """A text by a model whose scores are noise, and whether it was ended by the end-of-sequence token."""
    sequence = GuidedSequence(vocabulary, Guide(grammar, max_tokens, close))
    draw, ids = random.Random(seed), list[int]()
    for _ in range(max_tokens):
        mask = sequence.allowed()
        assert mask is not None, sequence.failure
        allowed = unpacked(mask, SIZE)
        assert allowed.any() and len(allowed) == SIZE
        token = sequence.take(draw.choice(allowed.nonzero()[0].tolist()))
        if token == EOS_ID:
            assert sequence.allowed() is None
            return TOKENIZER.decode(ids), True
        ids.append(token)
    return TOKENIZER.decode(ids), False


def json_grammar(schema: Any) -> str:
    grammar: str = LLMatcher.grammar_from_json_schema(json.dumps(schema), overrides={"whitespace_flexible": False})
    return grammar


def an_object(**properties: Any) -> dict[str, Any]:
    return {
        "type": "object", "properties": properties, "required": list(properties), "additionalProperties": False,
    }  # fmt: skip


TEXT, WHOLE = {"type": "string"}, {"type": "integer"}
FORMATS = ["date", "date-time", "time", "duration", "email", "hostname", "ipv4", "ipv6", "uri", "uuid"]
SCHEMAS: list[Any] = [
    an_object(name=TEXT, age=WHOLE),
    an_object(tags={"type": "array", "items": an_object(key=TEXT, colour={"enum": ["red", "green"]})}),
    an_object(part=an_object(price={"type": "number"}, ok={"const": True})),
    {"type": "array", "minItems": 2, "items": {"anyOf": [TEXT, {"type": "null"}, an_object(n=WHOLE)]}},
    {"type": "array", "items": an_object(**{f"field{i}": {"type": "string", "minLength": 3} for i in range(12)})},
    an_object(share={"type": "number", "exclusiveMinimum": 0.5, "maximum": 0.75}, words=TEXT),
    an_object(name={"type": "string", "pattern": "^[A-Z][a-z]+ [A-Z][a-z]+$"}, words=TEXT),
    {"type": "object"},
    {},
    *(an_object(words=TEXT, one={"type": "string", "format": name}) for name in FORMATS),
]


@pytest.mark.parametrize("schema", SCHEMAS, ids=json.dumps)
def test_json_is_always_ended_in_time(vocabulary: Vocabulary, schema: Any) -> None:
    """With budgets from the shortest text that is found to ten times of it."""
    grammar = json_grammar(schema)
    shortest = len(vocabulary.ending.find(vocabulary.matcher(grammar)) or [])
    assert 1 < shortest < 150
    for part in (1.0, 1.2, 2.0, 3.0, 10.0):
        for seed in range(2):
            text, _ = write(vocabulary, grammar, int(shortest * part), seed)
            jsonschema.validate(json.loads(text), schema)


def test_the_longest_budget_is_kept_too(vocabulary: Vocabulary) -> None:
    schema = {"type": "array", "items": an_object(a=TEXT, b={"type": "array", "items": TEXT}), "minItems": 30}
    text, _ = write(vocabulary, json_grammar(schema), 1200, seed=1)
    jsonschema.validate(json.loads(text), schema)


def test_a_text_that_ends_by_itself_is_left_alone(vocabulary: Vocabulary) -> None:
    """With much to spare the choices are the model's own."""
    short = [write(vocabulary, json_grammar(TEXT), 100, seed) for seed in range(30)]
    long = [write(vocabulary, json_grammar(TEXT), 2000, seed) for seed in range(30)]
    same = [a for a, b in zip(short, long, strict=True) if a == b]
    assert 5 < len(same) < 30
    assert all(len(text) > len(cut) for (text, _), (cut, _) in zip(long, short, strict=True) if text != cut)


def test_a_budget_that_holds_no_text_at_all_is_used_up(vocabulary: Vocabulary) -> None:
    text, ended = write(vocabulary, json_grammar(SCHEMAS[0]), 3, seed=0)
    assert text and '{"name":"'.startswith(text) and not ended


THOUGHTS = """
start: close answer
close[lazy]: /(.|\\n)*/ "</think>"
answer: %json {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}
"""


def test_thoughts_are_closed_in_time_for_what_comes_after_them(vocabulary: Vocabulary) -> None:
    close = tuple(TOKENIZER.encode("</think>").ids)
    shortest = vocabulary.ending.find(vocabulary.matcher(THOUGHTS), close) or []
    assert tuple(shortest[: len(close)]) == close and len(shortest) < 40
    for part in (1, 6):
        for seed in range(3):
            text, _ = write(vocabulary, THOUGHTS, len(shortest) * part, seed, close)
            thoughts, mark, answer = text.partition("</think>")
            assert mark and isinstance(json.loads(answer)["a"], str), text
            assert (len(thoughts) > 20) == (part > 1)
    text, ended = write(vocabulary, THOUGHTS, len(shortest) - 2, 0, close)
    assert not ended and "}" not in text.partition("</think>")[2]


def test_a_text_is_complete_where_only_its_end_could_follow_the_last_token(vocabulary: Vocabulary) -> None:
    def after(grammar: str, max_tokens: int, text: str) -> bool:
        sequence = GuidedSequence(vocabulary, Guide(grammar, max_tokens))
        for id in TOKENIZER.encode(text).ids:
            assert not sequence.complete and sequence.allowed() and sequence.take(id) == id
        return sequence.complete

    text = '{"name":"John","":""}'
    tokens = len(TOKENIZER.encode(text).ids)
    assert after(json_grammar({"type": "object"}), tokens, text)
    assert not after(json_grammar({"type": "object"}), tokens + 1, text), "there is room for the end itself"
    assert after(LLMatcher.grammar_from_regex("no|yes"), 3, "yes")
    assert not after(LLMatcher.grammar_from_regex("(yes)+"), 3, "yes"), "it could have gone on"
    assert not after(LLMatcher.grammar_from_regex("yes!"), 3, "yes")
    sequence = GuidedSequence(vocabulary, Guide(LLMatcher.grammar_from_regex("y"), 2))
    assert [sequence.take(id) for id in (*TOKENIZER.encode("y").ids, EOS_ID)][-1] == EOS_ID
    assert not sequence.complete, "it has its end"


@pytest.mark.parametrize(
    "pattern", ["(yes|no)", "[0-9]{3}-[a-f]+", r"[a-z]+@[a-z]+\.(com|org)", "[a-z]+X[0-9]+", "((a|b)+!)+"]
)
def test_regular_expressions(vocabulary: Vocabulary, pattern: str) -> None:
    for seed in range(20):
        text, _ = write(vocabulary, LLMatcher.grammar_from_regex(pattern), 60, seed)
        assert re.fullmatch(pattern, text), text


def test_a_grammar_that_breaks_on_the_way_fails_its_own_sequence_only(tokenizer_json: Path) -> None:
    guides = Guides(tokenizer_json, SIZE, [EOS_ID])
    grammars = {1: "start: (", 2: LLMatcher.grammar_from_regex("(yes|no)"), 3: None}
    new = [
        NewSequence(id, [0], [[0]], SamplingParams(guide=grammar and Guide(grammar, 9)), 10)  # type: ignore[arg-type]
        for id, grammar in grammars.items()
    ]
    guides.update(Plan(0, [1, 2, 3], [1, 1, 1], new))
    future = guides.allowed([3, 2, 1], torch.device("cpu"))
    assert future is not None
    masks = future.result()
    assert masks is not None
    assert masks.rows.tolist() == [1] and masks.words.dtype == torch.int32 and masks.words.shape == (1, -(-SIZE // 32))
    yes = TOKENIZER.encode("y").ids[0]
    allowed = unpacked(masks.words.numpy().tobytes(), SIZE)
    assert allowed[yes] and not allowed[EOS_ID]
    assert [guides.follow(id, [token], []) for id, token in ((3, 5), (2, yes), (1, 5))] == [None, [yes], [5]]
    assert list(guides.failures([1, 2, 3])) == [1]
    guides.update(Plan(1, [3], [1], finished=[1, 2]))
    assert guides.allowed([1, 2, 3], torch.device("cpu")) is None


@pytest.mark.parametrize("broken", ["__init__", "masks", "follow", "reach"])
def test_a_defect_of_a_guide_fails_its_own_sequence_only(
    tokenizer_json: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, broken: str
) -> None:
    kept = getattr(GuidedSequence, broken)
    sound, unsound = (Guide(LLMatcher.grammar_from_regex("(yes|no)"), most) for most in (9, 8))

    def breaks(self: GuidedSequence, *given: Any) -> Any:
        if unsound in given or getattr(self, "_guide", None) is unsound:
            raise RuntimeError("a defect")
        return kept(self, *given)

    monkeypatch.setattr(GuidedSequence, broken, breaks)
    guides = Guides(tokenizer_json, SIZE, [EOS_ID])
    new = [NewSequence(id, [0], [[0]], SamplingParams(guide=guide), 10) for id, guide in enumerate((sound, unsound))]
    guides.update(Plan(0, [0, 1], [1, 1], new))
    yes = TOKENIZER.encode("y").ids
    assert 0 in guides.cut({0: yes, 1: yes})
    allowed = guides.allowed([0, 1], torch.device("cpu"))
    assert allowed is not None
    masks = allowed.result()
    assert masks is not None and 0 in masks.rows
    assert [guides.follow(id, yes, []) for id in (0, 1)] == [yes, yes] and guides.complete([0, 1]) == []
    assert guides.failures([0, 1]) == {1: "the grammar cannot be followed any further: RuntimeError"}
    assert len([record for record in caplog.records if record.exc_info]) == 1


def test_a_tokenizer_that_cannot_be_used(tmp_path: Path, tokenizer_json: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    assert "cannot use the tokenizer" in (Guides(tmp_path / "tokenizer.json", 10, [0]).unsupported() or "")
    assert Guides(tokenizer_json, SIZE - 9, [EOS_ID]).unsupported()
    assert Guides(tokenizer_json, SIZE, [EOS_ID]).unsupported() is None


def follow(vocabulary: Vocabulary, grammar: str, max_tokens: int, seed: int, wrong: float) -> tuple[list[int], int]:
    """The text of `write` by a model that guesses up to four tokens, and knows what it will pick; steps it took.

    The pick at a place is a function of what is allowed there, and drafts are wrong with probability `wrong`.
    """

    def pick(mask: bytes, place: int) -> int:
        choices = unpacked(mask, SIZE).nonzero()[0].tolist()
        return choices[random.Random(seed * 1000 + place).randrange(len(choices))]

    sequence, oracle = (GuidedSequence(vocabulary, Guide(grammar, max_tokens)) for _ in range(2))
    expected, text, steps, draw = list[int](), list[int](), 0, random.Random(seed)
    while (mask := oracle.allowed()) is not None and len(expected) < max_tokens:
        expected.append(oracle.take(pick(mask, len(expected))))
    while EOS_ID not in text and len(text) < max_tokens:
        room = min(4, max_tokens - len(text) - 1)
        drafts = [t if draw.random() > wrong else draw.randrange(SIZE) for t in expected[len(text) :][:room]]
        masks = sequence.masks(drafts)
        assert 1 <= len(masks) <= 1 + len(drafts)
        picked = [pick(mask, len(text) + offset) for offset, mask in enumerate(masks)]
        text += sequence.follow([*picked, *[0] * (1 + len(drafts) - len(picked))], drafts)
        steps += 1
    assert text == expected
    return text, steps


@pytest.mark.parametrize("schema", SCHEMAS[:6], ids=json.dumps)
def test_guesses_change_nothing_in_a_guided_text(vocabulary: Vocabulary, schema: Any) -> None:
    grammar = json_grammar(schema)
    shortest = len(vocabulary.ending.find(vocabulary.matcher(grammar)) or [])
    tokens = steps = 0
    for part in (1.0, 1.5, 4.0):
        for wrong in (0.0, 0.3, 1.0):
            for seed in range(3):
                text, taken = follow(vocabulary, grammar, int(shortest * part), seed, wrong)
                tokens, steps = tokens + len(text), steps + taken
    assert steps < tokens


def test_masks_end_where_the_grammar_does_not_take_a_guess(vocabulary: Vocabulary) -> None:
    y, e, s, n = (TOKENIZER.encode(letter).ids[0] for letter in "yesn")
    sequence = GuidedSequence(vocabulary, Guide(LLMatcher.grammar_from_regex("y(es)?"), 9))
    assert [len(sequence.masks(drafts)) for drafts in ([], [y], [n, e], [y, n], [y, e, s], [y, EOS_ID, e])] == [
        1, 2, 1, 2, 4, 2,
    ]  # fmt: skip
    after = [unpacked(mask, SIZE).nonzero()[0].tolist() for mask in sequence.masks([y, e])[1:]]
    assert after == [
        sorted([EOS_ID, *ways(e, "es")]),
        ways(s, "s"),
    ]
    assert sequence.follow([y, e, s], [y, e]) == [y, e, s]
    assert sequence.masks([EOS_ID, 5]) and sequence.follow([EOS_ID, 5, 6], [EOS_ID, 5]) == [EOS_ID]
    assert sequence.masks([5]) == [] and sequence.follow([5, 6], [5]) == [5, 6], "it is over: any token may come"


def ways(token: int, text: str) -> list[int]:
    """`token`, and the one token that `text` is, if it is one."""
    ids = TOKENIZER.encode(text).ids
    return sorted({token, *(ids if len(ids) == 1 else [])})


@pytest.mark.parametrize(
    ("pattern", "letters", "guesses"),
    [
        ("ab(a|b)*a(a|b){12}c", "abababab", "abababab"),  # breaks after two, alone as well
        ("[a-z]{1,2000}x", "abababab", "abababab"),
        ("z(A(a|b)*a(a|b){12}c|Bq+)", "zBqqqq", "zAabaa"),  # breaks only where it was guessed to go
        ("za[a-z]{1,2000}x|zb+", "zbbbb", "zacca"),
    ],
)
def test_a_grammar_breaks_where_the_text_gets_and_not_before(
    vocabulary: Vocabulary, monkeypatch: pytest.MonkeyPatch, pattern: str, letters: str, guesses: str
) -> None:
    """An automaton in error takes its copies with it: looking ahead must not harm the text."""
    monkeypatch.setattr(vocabulary, "_limits", LLParserLimits(verbose_errors=False, step_lexer_fuel=100))
    guided, alone = (GuidedSequence(vocabulary, Guide(LLMatcher.grammar_from_regex(pattern), 3000)) for _ in range(2))
    picks, drafts = ([TOKENIZER.encode(letter).ids[0] for letter in text] for text in (letters, guesses))
    text, expected = list[int](), list[int]()
    while len(expected) < len(picks) and alone.allowed() is not None and alone.failure is None:
        expected.append(alone.take(picks[len(expected)]))
    while len(text) < len(picks) and guided.masks(drafts[len(text) :][:4]) and guided.failure is None:
        ahead = drafts[len(text) :][:4]
        text += guided.follow([*picks[len(text) :], 0][: len(ahead) + 1], ahead)
    assert text == expected and guided.failure == alone.failure
    assert (len(text) < 4) == (guided.failure is not None)

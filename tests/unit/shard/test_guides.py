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
from llguidance import LLMatcher

from tests.router_app import EOS_ID, TOKENIZER
from tgi_server.shard.guides import GuidedSequence, Guides, Vocabulary
from tgi_server.types import Guide, NewSequence, Plan, SamplingParams

SIZE = TOKENIZER.get_vocab_size() + 7  # models are often padded


@pytest.fixture(scope="module")
def tokenizer_json(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "tokenizer.json"
    TOKENIZER.save(str(path))
    return path


@pytest.fixture(scope="module")
def vocabulary(tokenizer_json: Path) -> Vocabulary:
    return Vocabulary(tokenizer_json, SIZE, [EOS_ID])


def write(vocabulary: Vocabulary, grammar: str, max_tokens: int, seed: int) -> tuple[str, bool]:
    """A text by a model whose scores are noise, and whether it was ended by the end-of-sequence token."""
    sequence = GuidedSequence(vocabulary, Guide(grammar, max_tokens))
    draw, ids = random.Random(seed), list[int]()
    for _ in range(max_tokens):
        allowed = sequence.allowed()
        assert allowed is not None and allowed.any() and len(allowed) == SIZE, sequence.failure
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
        for seed in range(4):
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
        NewSequence(id, [0], [0], SamplingParams(guide=grammar and Guide(grammar, 9)))  # type: ignore[arg-type]
        for id, grammar in grammars.items()
    ]
    guides.update(Plan(0, [1, 2, 3], [1, 1, 1], new))
    future = guides.allowed([3, 2, 1], torch.device("cpu"))
    assert future is not None
    masks = future.result()
    assert list(masks) == [1] and masks[1].dtype == torch.bool and masks[1].shape == (SIZE,)
    yes = TOKENIZER.encode("y").ids[0]
    assert masks[1][yes] and not masks[1][EOS_ID]
    assert guides.take([3, 2, 1], [5, yes, 5]) == {}
    assert list(guides.failures([1, 2, 3])) == [1]
    guides.update(Plan(1, [3], [1], finished=[1, 2]))
    assert guides.allowed([1, 2, 3], torch.device("cpu")) is None


def test_a_tokenizer_that_cannot_be_used(tmp_path: Path, tokenizer_json: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    assert "cannot use the tokenizer" in (Guides(tmp_path / "tokenizer.json", 10, [0]).unsupported() or "")
    assert Guides(tokenizer_json, SIZE - 9, [EOS_ID]).unsupported()
    assert Guides(tokenizer_json, SIZE, [EOS_ID]).unsupported() is None

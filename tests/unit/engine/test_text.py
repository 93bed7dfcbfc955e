import itertools
from collections.abc import Iterable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from tests.vocabularies import KINDS, LOSSLESS, SPECIAL
from tgi_server.batching.sequence import Progress
from tgi_server.batching.sequence import Sequence as Scheduled
from tgi_server.engine.generation import Bell, Generation
from tgi_server.engine.text import GenerationText, Vocabulary
from tgi_server.types import (
    Finish,
    FinishReason,
    GenerationRequest,
    Mark,
    Reasoning,
    SamplingParams,
    StoppingParams,
    TokenEvent,
    TopTokens,
)

END, TURN = 0, 1


def request_for(
    tokenizer: Tokenizer,
    tokens: int,
    stops: tuple[str, ...],
    keep_stop: bool,
    sampling: SamplingParams | None = None,
    mark: Mark | None = None,
    reasoning: Reasoning | None = None,
) -> GenerationRequest:
    stopping = StoppingParams(
        max_new_tokens=tokens, stop_sequences=stops, keep_stop=keep_stop, content_until=mark, reasoning=reasoning
    )
    prompt = tokenizer.encode("Paris").ids
    return GenerationRequest(prompt_ids=prompt, sampling=sampling or SamplingParams(), stopping=stopping)


def generate(
    tokenizer: Tokenizer,
    ids: Iterable[int],
    stops: tuple[str, ...] = (),
    keep_stop: bool = True,
    last: FinishReason = FinishReason.LENGTH,
    sampling: SamplingParams | None = None,
    mark: Mark | None = None,
    reasoning: Reasoning | None = None,
) -> tuple[list[list[TokenEvent]], Finish]:
    """What each token released, and the end."""
    ids = list(ids)
    request = request_for(tokenizer, len(ids), stops, keep_stop, sampling, mark, reasoning)
    text = GenerationText(Vocabulary(tokenizer), request, request.prompt_ids)
    released = []
    for index, id in enumerate(ids):
        released.append(text.push(id, -1.0, None, last if index == len(ids) - 1 else None))
        if released[-1] and released[-1][-1].finish:
            return released, released[-1][-1].finish
    raise AssertionError("no end")


def texts(released: list[list[TokenEvent]]) -> list[str]:
    return [event.token.text for events in released for event in events]


def test_each_token_shows_its_text_at_once(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode(" is the capital").ids
    released, finish = generate(tokenizer, ids)
    assert [len(events) for events in released] == [1] * len(ids)
    assert "".join(texts(released)) == finish.text == " is the capital"
    assert (finish.reason, finish.generated_tokens, finish.seed) == (FinishReason.LENGTH, len(ids), None)


def test_a_character_is_shown_when_it_is_complete_and_what_is_before_it_at_once(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode(" 😀 你").ids
    released, finish = generate(tokenizer, ids)
    assert [text for text in texts(released) if text] == [" ", "😀", " ", "你"]
    assert finish.text == " 😀 你"


def test_an_end_inside_a_character_keeps_what_is_complete(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("dé😀").ids[:-1]
    assert generate(tokenizer, ids)[1].text == "dé"
    assert generate(tokenizer, [*ids, END], last=FinishReason.EOS_TOKEN)[1].text == "dé"


def test_special_tokens_are_shown_but_not_part_of_the_text(tokenizer: Tokenizer) -> None:
    ids = [*tokenizer.encode("the").ids, TURN, *tokenizer.encode(" dog").ids, END]
    released, finish = generate(tokenizer, ids, last=FinishReason.EOS_TOKEN)
    special = [(event.token.text, event.token.special) for events in released for event in events]
    assert ("<|turn|>", True) in special and special[-1] == ("<|end|>", True)
    assert (finish.text, finish.reason) == ("the dog", FinishReason.EOS_TOKEN)


@pytest.mark.parametrize(
    ("stops", "keep_stop", "expected"),
    [
        (("qui",), True, "the qui"),  # in the middle of a token
        (("qui",), False, "the "),
        (("ck b", "zzz"), True, "the quick b"),  # across tokens
        (("ck b", "zzz"), False, "the qui"),
        (("brown", "quick"), True, "the quick"),  # the earliest
        (("the quick",), False, ""),
    ],
)
def test_stop_sequences_are_found_anywhere(
    tokenizer: Tokenizer, stops: tuple[str, ...], keep_stop: bool, expected: str
) -> None:
    ids = tokenizer.encode("the quick brown fox").ids
    released, finish = generate(tokenizer, ids, stops, keep_stop)
    assert finish.reason is FinishReason.STOP_SEQUENCE and finish.stop_sequence in stops
    assert finish.text == "".join(texts(released)) == expected
    assert expected.endswith(finish.stop_sequence) == keep_stop


def test_text_that_may_become_a_stop_sequence_is_held_back(tokenizer: Tokenizer) -> None:
    ids = [tokenizer.encode(piece).ids for piece in ("a", "b", "c", "d")]
    flat = [id for piece in ids for id in piece]
    released, finish = generate(tokenizer, flat, ("bcx",))
    assert [[event.token.text for event in events] for events in released] == [["a"], [], [], ["b", "c", "d"]]
    assert finish.text == "abcd"
    released, finish = generate(tokenizer, flat[:3], ("bcx",))
    assert [len(events) for events in released] == [1, 0, 2], "the end releases what was held"


def test_a_special_token_can_be_a_stop_sequence(tokenizer: Tokenizer) -> None:
    ids = [*tokenizer.encode("the").ids, TURN, *tokenizer.encode(" dog").ids]
    _, finish = generate(tokenizer, ids, ("<|turn|>",))
    assert (finish.reason, finish.text) == (FinishReason.STOP_SEQUENCE, "the")


@pytest.mark.parametrize(
    ("mark", "words", "expected"),
    [
        (Mark("<|turn|>", special=True), ["the", " fox", TURN, " quick!"], "the fox quick!"),
        (Mark("<|turn|>", special=True), ["the", " quick", TURN, " fox!"], "the "),
        (Mark("<call"), ["the", " <", "call", " quick!"], "the <call quick!"),
        (Mark("<call"), ["the", "<", "quick", "call"], "the<"),
        (Mark("!!"), ["so", "!", "!", "quick!"], "so!!quick!"),
        (Mark("!!"), ["so", "!"], "so"),  # a stop sequence, as no second one comes
        (Mark("!!"), ["so", "!", " quick"], "so"),
    ],
)
def test_stop_sequences_are_looked_for_in_content(
    tokenizer: Tokenizer, mark: Mark, words: list[str | int], expected: str
) -> None:
    ids = [id for word in words for id in ([word] if isinstance(word, int) else tokenizer.encode(word).ids)]
    for last, ids_ in ((FinishReason.LENGTH, ids), (FinishReason.EOS_TOKEN, [*ids, END])):
        released, finish = generate(tokenizer, ids_, ("quick", "!"), False, last, mark=mark)
        events = [event.token for some in released for event in some]
        assert finish.text == expected == "".join(token.text for token in events if not token.special)
        assert (finish.reason is last) == (expected.endswith("quick!")) == (finish.stop_sequence is None)


@pytest.mark.parametrize("keep_stop", [False, True])
@pytest.mark.parametrize(
    ("begun", "text", "expected"),
    [
        (False, "<think>the quick fox</think>brown dog", "<think>the quick fox</think>brown dog"),
        (False, "<think>quick</think>the quick fox", "<think>quick</think>the "),
        (False, "<think>qui</think>ck fox", "<think>qui</think>ck fox"),
        (False, "<think></think>\n\nquick", "<think></think>\n\n"),
        (False, "the quick <think>fox", "the "),
        (False, "<thinquick fox", "<thin"),
        (False, "<th", "<th"),
        (True, "the quick</think>", "the quick</think>"),
        (True, "a</thinkquick</think>the quick", "a</thinkquick</think>the "),
    ],
)
def test_stop_sequences_are_not_looked_for_in_thoughts(
    tokenizer: Tokenizer, begun: bool, text: str, expected: str, keep_stop: bool
) -> None:
    reasoning, ids = Reasoning("<think>", "</think>", begun=begun), tokenizer.encode(text).ids
    for last, ids_ in ((FinishReason.LENGTH, ids), (FinishReason.EOS_TOKEN, [*ids, END])):
        released, finish = generate(tokenizer, ids_, ("quick",), keep_stop, last, reasoning=reasoning)
        assert finish.text == expected + "quick" * (keep_stop and expected != text)
        events = [event.token for some in released for event in some]
        assert finish.text == "".join(token.text for token in events if not token.special)
        assert (finish.reason is last) == (expected == text)


def test_what_may_become_a_thought_is_held_back(tokenizer: Tokenizer) -> None:
    ids = [id for piece in ("<", "t", "a", "b") for id in tokenizer.encode(piece).ids]
    released, _ = generate(tokenizer, ids, ("quick",), reasoning=Reasoning("<think>", "</think>"))
    assert [len(events) for events in released] == [0, 0, 3, 1]


def test_the_seed_is_told_when_the_choice_was_random(tokenizer: Tokenizer) -> None:
    sampling = SamplingParams(temperature=0.5, seed=42)
    assert generate(tokenizer, [5], sampling=sampling)[1].seed == 42


def test_alternatives_and_prompt_tokens_are_decoded_alone(tokenizer: Tokenizer) -> None:
    vocabulary = Vocabulary(tokenizer)
    tokens = vocabulary.top(TopTokens([TURN, *tokenizer.encode("x").ids], [-0.1, -2.0]))
    assert [(token.text, token.special, token.logprob) for token in tokens] == [
        ("<|turn|>", True, -0.1),
        ("x", False, -2.0),
    ]
    assert [event.token.logprob for event in vocabulary.prompt([4, 5, 6], [-1.0, -2.0])] == [None, -1.0, -2.0]
    others = [event.top_tokens for event in vocabulary.prompt([4, 5], [-1.0], [TopTokens([6, 5], [-0.5, -1.0])])]
    assert [[top.id for top in tops] for tops in others] == [[], [6, 5]]


@given(
    text=st.text(st.sampled_from("ab é😀你"), max_size=20),
    stops=st.lists(st.text(st.sampled_from("ab é😀"), min_size=1, max_size=4), max_size=3),
    keep_stop=st.booleans(),
    specials=st.lists(st.integers(0, 40), max_size=2),
    cut=st.integers(0, 3),
)
def test_events_join_to_the_generated_text(
    tokenizer: Tokenizer, text: str, stops: list[str], keep_stop: bool, specials: list[int], cut: int
) -> None:
    ids = tokenizer.encode(text).ids
    ids = ids[: len(ids) - cut] or tokenizer.encode("a").ids
    full = tokenizer.decode(ids).rstrip("\ufffd")
    for position in specials:
        ids.insert(min(position, len(ids)), TURN)
    released, finish = generate(tokenizer, ids, tuple(stops), keep_stop)
    events = [event for batch in released for event in batch]
    assert finish.text == "".join(event.token.text for event in events if not event.token.special)
    assert "\ufffd" not in finish.text or specials, "never half a character"
    assert finish.generated_tokens == len(events)
    if not specials:
        ends = [full.find(stop) + len(stop) for stop in stops if stop in full]
        begins = [min(ends) - len(stop) for stop in stops if full[: min(ends)].endswith(stop)] if ends else []
        assert finish.text == (full[: min(ends) if keep_stop else min(begins)] if ends else full)


WORDS = ["the", " quick", "fox ", " ", "Paris", "é", "日本語", "🙂", "👩‍👩‍👧", "ﬁ", "!", "\n"]


def first_stop(text: str, stops: Sequence[str]) -> tuple[int, int] | None:
    """Where the stop sequence that is complete first begins and ends; of those that end together the longest."""
    for end in range(1, len(text) + 1):
        lengths = [len(stop) for stop in stops if text[:end].endswith(stop)]
        if lengths:
            return end - max(lengths), end
    return None


@pytest.mark.parametrize("keep_stop", [True, False])
@pytest.mark.parametrize("stops", [
    ("語",), ("🙂",), ("本語🙂",), ("k 日本", "本語"), ("語🙂👩‍👩", "👩‍"), ("日本日本語",), ("日本日本日本語", "never"),
    ("語🙂👩‍👩‍👧 fo",), ("n the quick 日",), ("\u200d👧",), ("x jumps",), (" jumps over!", "over"), ("!",),
])  # fmt: skip
@pytest.mark.parametrize("kind", LOSSLESS)
def test_stop_sequences_over_any_tokens(kind: str, stops: tuple[str, ...], keep_stop: bool) -> None:
    text = "in the quick 日本日本日本語🙂👩‍👩‍👧 fox jumps over!"
    ids = KINDS[kind]().encode(text).ids
    released, finish = generate(KINDS[kind](), ids, stops, keep_stop)
    shown = f" {text}" if kind == "llama" else text  # its first word would follow "Paris" as a new one
    stop = first_stop(shown, stops)
    assert finish.text == "".join(texts(released)) == (shown if stop is None else shown[: stop[keep_stop]])
    assert (finish.reason is FinishReason.STOP_SEQUENCE) == (stop is not None) == any(stop in text for stop in stops)


@given(
    kind=st.sampled_from(sorted(KINDS)),
    words=st.lists(st.sampled_from(WORDS), min_size=1, max_size=8),
    cuts=st.lists(st.tuples(st.integers(0, 30), st.integers(1, 6)), max_size=3),
    keep_stop=st.booleans(),
    special=st.lists(st.integers(0, 40), max_size=2),
    steps=st.lists(st.integers(1, 5), min_size=1, max_size=4),
)
def test_any_tokens_in_any_steps(
    kind: str, words: list[str], cuts: list[tuple[int, int]], keep_stop: bool, special: list[int], steps: list[int]
) -> None:
    """Stop sequences that are parts of the text; a step brings several tokens."""
    tokenizer = KINDS[kind]()
    ids = tokenizer.encode("".join(words)).ids or tokenizer.encode("Paris").ids
    for position in special:
        ids.insert(min(position, len(ids)), tokenizer.token_to_id(SPECIAL[1]) or 0)
    whole = "".join(texts(generate(tokenizer, ids)[0]))
    stops = tuple({whole[begin : begin + length] for begin, length in cuts} - {""})
    released, finish = generate(tokenizer, ids, stops, keep_stop)
    events = [event for batch in released for event in batch]
    assert finish.text == "".join(event.token.text for event in events if not event.token.special)
    assert special or "\ufffd" not in whole, "a special token may come within a character"
    stop = first_stop(whole, stops)
    assert "".join(texts(released)) == (whole if stop is None else whole[: stop[keep_stop]])
    assert finish.generated_tokens == len(events)
    assert deliver(tokenizer, ids, stops, keep_stop, steps) == events


def deliver(
    tokenizer: Tokenizer, ids: list[int], stops: tuple[str, ...], keep_stop: bool, steps: list[int]
) -> list[TokenEvent]:
    """The events of a generation that gets several tokens a step."""
    request = request_for(tokenizer, len(ids), stops, keep_stop)
    text = GenerationText(Vocabulary(tokenizer), request, request.prompt_ids)
    generation = Generation(Scheduled(0, request), text, enter=lambda _: None, leave=lambda _: None, bell=Bell())
    events, done, over = [], 0, False
    for count in itertools.cycle(steps):
        tokens, done = ids[done : done + count], done + count
        finish = FinishReason.LENGTH if done >= len(ids) else None
        over = generation.deliver(Progress(generation.sequence, tokens, [-1.0] * len(tokens), [], finish))
        events += generation.take()
        if over:
            break
    assert over and generation.over
    return events

"""Texts of tokens in vocabularies of all kinds, made with the library that makes the real ones."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

from tests.vocabularies import ADDED, KINDS, LOSSLESS, SPECIAL
from tgi_server.engine.detokenizer import MOST_PENDING, ContextDetokenizer, Detokenizer
from tgi_server.engine.pieces import pieces
from tgi_server.engine.text import Vocabulary
from tgi_server.types import TopTokens

WORDS = [
    "the", " quick", "fox ", " ", "  ", "Paris", "é", "日本語", "🙂", "👩‍👩‍👧", "ﬁ", "e\u0301", "!", " don't", "\n",
    "\t", "\ufffd", "<tool>",
]  # fmt: skip
TEXT = st.lists(st.sampled_from(WORDS), max_size=10).map("".join)
KIND = st.sampled_from(sorted(KINDS))
BY_PIECE = [*LOSSLESS, "unigram"]


@cache
def letters() -> dict[str, int]:
    """What bytes GPT-2's letters stand for, as the library writes texts in them; 0xC0 and the like are in none."""
    step = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    found: dict[str, int] = {}
    for number in {*range(0x800), *range(0x800, 0x110000, 0x40)}.difference(range(0xD800, 0xE000)):
        ((word, _),) = step.pre_tokenize_str(chr(number))
        found |= dict(zip(word, chr(number).encode(), strict=True))
    return found


def byte_ids(tokenizer: Tokenizer, content: bytes) -> list[int]:
    """A token a byte."""
    named = tokenizer.token_to_id("<0x00>") is not None
    letter = {byte: name for name, byte in letters().items()}
    ids = [tokenizer.token_to_id(f"<0x{byte:02X}>" if named else letter[byte]) for byte in content]
    return [id for id in ids if id is not None]


def reference(kind: str, ids: Sequence[int]) -> str:
    """The text of ids, without the character that is not complete at its end: token by token, or by the library."""
    tokenizer = KINDS[kind]()
    if kind not in LOSSLESS:
        return tokenizer.decode(ids, skip_special_tokens=False)
    content = b""
    for id in ids:
        token = tokenizer.id_to_token(id) or ""
        if kind == "byte_level":
            content += bytes(letters()[letter] for letter in token)
        else:
            content += bytes([int(token[3:5], 16)]) if token.startswith("<0x") else token.replace("▁", " ").encode()
    text = content.decode(errors="ignore")
    return text.removeprefix(" ") if kind == "llama" else text


def detokenizer(kind: str, context: Sequence[int] = ()) -> Detokenizer:
    return Vocabulary(KINDS[kind]()).detokenizer(context)


def joined(detokenizer: Detokenizer, ids: Sequence[int]) -> str:
    return "".join(detokenizer.push(id) for id in ids)


def encoded(kind: str, text: str) -> list[int]:
    return list(KINDS[kind]().encode(text).ids)


def test_the_letters_of_bytes() -> None:
    assert set(letters()) < set(pre_tokenizers.ByteLevel.alphabet()) and len(letters()) == 243
    found = pieces(KINDS["byte_level"]())
    assert found is not None
    for letter, byte in letters().items():
        assert found._piece(letter) == bytes([byte])


@given(kind=KIND, text=TEXT)
def test_a_text_from_its_beginning(kind: str, text: str) -> None:
    ids = encoded(kind, text)
    result = joined(detokenizer(kind), ids)
    assert result == KINDS[kind]().decode(ids, skip_special_tokens=False) == reference(kind, ids)
    if kind in LOSSLESS and "<tool>" not in text:
        assert result == text


@given(kind=KIND, text=TEXT, cut=st.integers(0, 40))
def test_a_text_that_continues_another(kind: str, text: str, cut: int) -> None:
    """Wherever it was cut: between words, within one, within a character."""
    ids = encoded(kind, text)
    before = reference(kind, ids[:cut])
    whole = reference(kind, ids)
    assert whole.startswith(before)
    assert joined(detokenizer(kind, ids[:cut]), ids[cut:]) == whole[len(before) :]


@given(kind=KIND, text=TEXT, cut=st.integers(0, 40))
def test_characters_come_whole(kind: str, text: str, cut: int) -> None:
    ids = encoded(kind, text.replace("\ufffd", ""))
    stream = detokenizer(kind, ids[:cut])
    assert not any("\ufffd" in stream.push(id) for id in ids[cut:])


@given(kind=st.sampled_from(LOSSLESS), text=TEXT, cut=st.integers(0, 40))
def test_a_decoder_that_is_not_known_gives_the_same(kind: str, text: str, cut: int) -> None:
    text = text.replace("\ufffd", "")
    ids, tokenizer = encoded(kind, text), KINDS[kind]()
    cut = next((at for at in range(cut, 0, -1) if not tokenizer.decode(ids[:at]).endswith("\ufffd")), 0)
    by_context = ContextDetokenizer(tokenizer, [], ids[:cut])
    assert joined(by_context, ids[cut:]) == joined(detokenizer(kind, ids[:cut]), ids[cut:])


@given(kind=KIND, ids=st.lists(st.integers(0, 400), max_size=30), cut=st.integers(0, 30))
def test_any_ids_have_a_text(kind: str, ids: list[int], cut: int) -> None:
    """And no more bytes that are no character than tokens."""
    text = joined(detokenizer(kind, ids[:cut]), ids[cut:])
    assert text.count("\ufffd") <= len(ids)


@pytest.mark.parametrize("kind", ["byte_level", "llama", "gemma"])
@pytest.mark.parametrize(
    ("content", "texts"),
    [
        (b"\xe4A", ["", "\ufffdA"]),
        (b"\xe4\xbdA", ["", "", "\ufffdA"]),
        (b"\xe4\xbd\xa0", ["", "", "你"]),
        (b"\xe4\xbd\xa0\x80\xe5\xa5\xbd", ["", "", "你", "\ufffd", "", "", "好"]),
        (b"\xe4\xbd\xe5\xa5\xbd", ["", "", "\ufffd", "", "好"]),
        (b"\xf0\x9f\x99\x82", ["", "", "", "🙂"]),
        (b"\xf0\x9f\x99", ["", "", ""]),
        (b"\x80\x80\x80", ["\ufffd"] * 3),
        ("\ufffd".encode() + b"a", ["", "", "\ufffd", "a"]),
    ],
)
def test_bytes_that_are_characters_and_bytes_that_are_none(kind: str, content: bytes, texts: list[str]) -> None:
    tokenizer = KINDS[kind]()
    stream = detokenizer(kind, encoded(kind, "the"))
    assert [stream.push(id) for id in byte_ids(tokenizer, content)] == texts


@pytest.mark.parametrize("kind", ["byte_level", "llama", "gemma"])
@pytest.mark.parametrize("before", ["", "the", "日本", "🙂🙂🙂", "\ufffd", "the\ufffd"])
def test_what_a_prompt_ends_with_does_not_come_again(kind: str, before: str) -> None:
    tokenizer = KINDS[kind]()
    ids = byte_ids(tokenizer, (" " + before).encode())
    assert joined(detokenizer(kind, ids), byte_ids(tokenizer, b" a")) == " a"
    for cut in (1, 2, 3):
        face = byte_ids(tokenizer, "🙂".encode())
        assert joined(detokenizer(kind, ids + face[:cut]), face[cut:]) == "🙂", "but a character that it ends within"


END = SPECIAL[0]


def id_of(kind: str, token: str) -> int:
    id = KINDS[kind]().token_to_id(token)
    assert id is not None
    return id


def words_of(kind: str) -> tuple[list[int], list[int]]:
    """Tokens that write "the" and "dog" with the space before them that a first word of a text has in this kind."""
    tokenizer = KINDS[kind]()
    if kind in ("llama", "gemma"):
        return byte_ids(tokenizer, b" the"), byte_ids(tokenizer, b" dog")
    space = " " if kind == "byte_level" else ""
    return encoded(kind, f"{space}the"), encoded(kind, f"{space}dog")


@pytest.mark.parametrize(
    ("kind", "begun", "anew"),
    [
        ("byte_level", " the dog", " the dog"),
        ("llama", " the dog", "the dog"),
        ("gemma", " the dog", " the dog"),
        ("unigram", " the dog", "the dog"),
        ("word_pieces", " the dog", "the dog"),
        ("suffixed", " the dog", "the dog"),
        ("whole_words", " the dog", "the dog"),
    ],
)
def test_the_space_before_the_first_word(kind: str, begun: str, anew: str) -> None:
    """Some vocabularies put one before each text; it is not shown. One before a word that continues a text is."""
    end = [id_of(kind, END)]
    the, dog = words_of(kind)
    before = encoded(kind, "fox")
    assert joined(detokenizer(kind, before), the + dog) == begun
    assert joined(detokenizer(kind, before + end), the + dog) == begun, "a special token is no text"
    assert joined(detokenizer(kind, before + end * 9), the + dog) == begun
    assert joined(detokenizer(kind), the + dog) == anew
    assert joined(detokenizer(kind, end * 9), the + dog) == anew, "nor the beginning of one"
    stream = detokenizer(kind)
    stream.interrupt()
    first = joined(stream, the)
    stream.interrupt()
    assert first + joined(stream, dog) == anew


@pytest.mark.parametrize(
    ("kind", "token"), [("byte_level", "o"), ("llama", "o"), ("gemma", "o"), ("unigram", "o"), ("word_pieces", "##o")]
)
def test_a_word_that_goes_on(kind: str, token: str) -> None:
    """A prompt that ends within a word is continued without a space."""
    assert detokenizer(kind, encoded(kind, "the f")).push(id_of(kind, token)) == "o"
    assert detokenizer(kind).push(id_of(kind, token)) == token


@pytest.mark.parametrize("kind", ["byte_level", "llama", "gemma"])
def test_an_unfinished_character_before_a_special_token_is_none(kind: str) -> None:
    tokenizer = KINDS[kind]()
    stream = detokenizer(kind)
    assert joined(stream, byte_ids(tokenizer, b"a\xe4\xbd")) == "a"
    stream.interrupt()
    assert joined(stream, byte_ids(tokenizer, b"\xa0b")) == "\ufffdb"


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_added_tokens_are_text_as_they_are(kind: str) -> None:
    """Also those whose letters stand for bytes elsewhere, of which the library's decoder makes something else."""
    for token in ADDED:
        id = id_of(kind, token)
        assert detokenizer(kind, encoded(kind, "the")).push(id).strip(" ") == token
        assert detokenizer(kind).push(id) == token


def test_ids_that_no_token_has() -> None:
    for kind in KINDS:
        assert detokenizer(kind).push(10_000) == ""


@pytest.mark.parametrize("kind", ["byte_level", "llama"])
def test_bytes_that_never_make_a_character_do_not_add_up(kind: str) -> None:
    tokenizer = KINDS[kind]()
    stream = ContextDetokenizer(tokenizer, [], [])
    for id in byte_ids(tokenizer, b"\x80" * 100):
        stream.push(id)
        assert len(stream._pending) < MOST_PENDING >= len(stream._context)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_alternatives_have_the_space_that_a_chosen_token_has(kind: str) -> None:
    tokenizer, vocabulary = KINDS[kind](), Vocabulary(KINDS[kind]())
    ids = [id for id in range(tokenizer.get_vocab_size()) if id not in vocabulary.special]
    for token in vocabulary.top(TopTokens(ids, [-1.0] * len(ids))):
        stream = vocabulary.detokenizer([*encoded(kind, "Paris"), token.id])
        chosen = stream.push(token.id)
        if chosen and "\ufffd" not in chosen + token.text:
            assert token.text == chosen
    (end,) = vocabulary.top(TopTokens([id_of(kind, END)], [-1.0]))
    assert (end.text, end.special) == (END, True)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_the_tokens_of_a_prompt(kind: str) -> None:
    """Each by itself, or as a part of the text, which they join to."""
    tokenizer, vocabulary = KINDS[kind](), Vocabulary(KINDS[kind]())
    ids = [id for id in encoded(kind, "the quick 🙂 fox") if id not in vocabulary.special]
    alone = vocabulary.prompt(ids, [-1.0] * (len(ids) - 1))
    assert [event.token.text for event in alone] == [tokenizer.decode([id]) for id in ids]
    joined = vocabulary.prompt(ids, [-1.0] * (len(ids) - 1), joined=True)
    assert "".join(event.token.text for event in joined) == tokenizer.decode(ids)
    assert [event.token.id for event in alone] == [event.token.id for event in joined] == ids


STEPS: list[tuple[list[decoders.Decoder], bool]] = [
    ([decoders.ByteLevel()], True),
    ([decoders.Metaspace(prepend_scheme="never")], True),
    ([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()], True),
    ([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)], True),
    ([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip("x", 1, 0)], False),
    ([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 1)], False),
    ([decoders.Replace(Regex("▁+"), " "), decoders.ByteFallback(), decoders.Fuse()], False),
    ([decoders.ByteFallback(), decoders.Fuse(), decoders.Replace("▁", " ")], False),
    ([decoders.WordPiece()], False),
    ([decoders.CTC()], False),
]


@pytest.mark.parametrize(("steps", "known"), STEPS)
def test_which_decoders_are_known(steps: list[decoders.Decoder], known: bool) -> None:
    tokenizer = Tokenizer(models.BPE({"a": 0}, []))
    for decoder in [decoders.Sequence(steps), *(steps if len(steps) == 1 else [])]:
        tokenizer.decoder = decoder
        assert (pieces(tokenizer) is not None) == known


def test_metaspace_that_puts_no_space_before_a_text() -> None:
    tokenizer = Tokenizer(models.Unigram([("<unk>", 0.0), ("▁a", -1.0)], unk_id=0))
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="never")
    assert joined(Vocabulary(tokenizer).detokenizer([]), [1, 1]) == tokenizer.decode([1, 1]) == " a a"

"""Prompts made up at random, each different: random words, texts that repeat themselves, and texts that do not."""

from __future__ import annotations

import random
from collections.abc import Sequence

_TEXT = """
the of and to in is that for it was on are as with his they at be this from have or by one had not but what
all were when we there can an your which their said if do will each about how up out them then she many some
so these would other into has more her two like him see time could no make than first been its who now people
my made over did down only way find use may water long little very after words called just where most know get
through back much before go good new write our used me man too any day same right look think also around
another came come work three word must because does part even place well such here take why things help put
years different away again off went old number
"""
WORDS = _TEXT.split()
_NAMES = (
    "Anna", "Boris", "Clara", "David", "Elena", "Felix", "Grace", "Henry", "Ines", "Jonas", "Karin", "Louis", "Maria",
    "Nadia", "Oscar", "Paula", "Rosa", "Simon",
)  # fmt: skip
_CITIES = (
    "Lisbon", "Oslo", "Vienna", "Cairo", "Lima", "Quito", "Seoul", "Hanoi", "Dakar", "Perth", "Turin", "Kyoto", "Porto",
)  # fmt: skip
_NOUNS = ("order", "user", "item", "price", "stock", "level", "speed", "weight", "length", "report", "account", "batch")
_VERBS = ("update", "remove", "insert", "check", "reset", "move", "merge", "split", "store", "load")
_THINGS = (
    "an old lighthouse", "a broken clock", "a letter that came too late", "the last train", "a garden behind a wall",
    "a borrowed violin", "a map without names", "the first snow", "a lost key", "an empty theatre", "a stray dog",
    "two rival bakers",
)  # fmt: skip
_OPENINGS = (
    "{name} had lived near {city} for {number} years when {other} came back with {thing}. Nobody had expected it, and",
    "Dear {other},\n\nI am writing to you from {city}, where it has rained for {number} days. Yesterday I saw {thing}, "
    "and",
    "Diary of {name}, day {number}. We reached {city} in the evening. In the square there was {thing}, and next to it",
    "{name} and {other} met in a cafe in {city} to talk about {thing}.\n\n\"It is {number} years old,\" said {name},",
    "The newspaper of {city} reported today that {name}, aged {number}, has found {thing}. According to {other},",
)  # fmt: skip
_SENTENCES = (
    "{name} left {city} at dawn with {number} coins in her pocket.",
    "The museum opens at noon and sells about {number} tickets a day.",
    "Nobody knows why {name} painted the door of the house in {city} green.",
    "In winter the river freezes, and {number} people cross it on foot.",
    "Every letter from {city} took more than {number} days to arrive.",
    "When the bell rang, {name} closed the book and went home.",
    "Last spring a storm took the roof of the school in {city}.",
    "My neighbour {name} keeps {number} bees, or so he says.",
    "Below the bridge stands a mill that burned down in {city} long ago.",
    "After dinner {name} told us the story of {thing}.",
    "Bread costs {number} cents more than it did a year ago.",
    "Far from {city}, on a quiet island, lies {thing}.",
)


def random_words(chance: random.Random, lengths: tuple[int, int]) -> str:
    """Common words, `lengths` of them (fewest, most), which are one token each in most vocabularies."""
    return " ".join(chance.choices(WORDS, k=chance.randint(*lengths)))


def ordinary(chance: random.Random) -> str:
    """The beginning of a text that nobody has written yet."""
    return _filled(chance, chance.choice(_OPENINGS))


def repetitive(chance: random.Random, number: int) -> str:
    """A task whose answer is for the most part in the prompt already: of three kinds, in turns by their `number`."""
    return (edited_code, copied_records, copied_paragraph)[number % 3](chance)


def edited_code(chance: random.Random) -> str:
    """Code, and the beginning of the same with a name changed."""
    old, new, *others = chance.sample(_NOUNS, 5)
    code = _code(chance, old, others)
    changed = code.replace(old, new).replace(old.title(), new.title())
    begun = "\n\n".join(changed.split("\n\n")[:2])
    return f"The file {old}.py:\n\n{code}\nThe same file with {old} renamed to {new}:\n\n{begun}\n\n"


def copied_records(chance: random.Random) -> str:
    """A list in JSON, and the beginning of the same list once more."""
    rows = ",\n".join(_record(chance, number) for number in range(1, 7))
    return f"The file people.json:\n\n[\n{rows}\n]\n\nIts copy, backup.json:\n\n[\n{rows[: rows.index(chr(10))]}"


def copied_paragraph(chance: random.Random) -> str:
    """A paragraph, and the beginning of its copy."""
    text = " ".join(_filled(chance, sentence) for sentence in chance.sample(_SENTENCES, len(_SENTENCES)))
    return f"The text:\n\n{text}\n\nThe same text again, word for word:\n\n{text[: text.index('. ') + 1]}"


def _filled(chance: random.Random, pattern: str) -> str:
    name, other = chance.sample(_NAMES, 2)
    city, thing, number = chance.choice(_CITIES), chance.choice(_THINGS), chance.randint(11, 99)
    return pattern.format(name=name, other=other, city=city, thing=thing, number=number)


def _record(chance: random.Random, number: int) -> str:
    name, city, noun = chance.choice(_NAMES), chance.choice(_CITIES), chance.choice(_NOUNS)
    return f'{{"id": {number}, "name": "{name}", "city": "{city}", "{noun}": {chance.randint(100, 999)}}}'


def _code(chance: random.Random, name: str, others: Sequence[str]) -> str:
    """A class with a method for each of the other names, a blank line before each."""
    lines = [f"class {name.title()}Table:", "    def __init__(self):", f"        self.{name}s = []"]
    for verb, other in zip(chance.sample(_VERBS, len(others)), others, strict=True):
        lines += [
            "", f"    def {verb}_{name}(self, {name}, {other}={chance.randint(1, 99)}):",
            f"        if {name} is None or {other} < {chance.randint(0, 9)}:",
            f'            raise ValueError("no {name} to {verb}")',
            f"        self.{name}s.append(({name}, {other} * {chance.randint(2, 9)}))",
            f"        return len(self.{name}s)",
        ]  # fmt: skip
    return "\n".join(lines) + "\n"

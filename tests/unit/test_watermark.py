"""The detector of watermarks: a text and a tokenizer are enough."""

from __future__ import annotations

import io
import itertools
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, processors

from tgi_server import greenlist
from tgi_server.kernels.sampling import green as favoured
from tgi_server.watermark import FAILED, MARKED, UNMARKED, Detection, detect, main

SIZE = 400
IDS = st.lists(st.integers(0, SIZE - 1), max_size=60)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    """A word a number: the text "3 1 4" has the ids 3, 1 and 4. "<|end|>" is special, its id is SIZE."""
    words = {str(id): id for id in range(SIZE)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens([AddedToken("<|end|>", special=True)])
    return tokenizer


def words(ids: list[int]) -> str:
    return " ".join("<|end|>" if id == SIZE else str(id) for id in ids)


def write(length: int, green: bool, gamma: float = 0.5) -> list[int]:
    """A text whose tokens all are green, or none; no pair comes twice."""
    choice = np.random.default_rng(1)
    ids = [0]
    while len(ids) < length:
        (next,) = choice.integers(0, SIZE, 1)
        if greenlist.green(np.array(ids[-1:]), np.array([next]), gamma)[0] == green:
            ids.append(int(next))
    assert len(set(itertools.pairwise(ids))) == length - 1
    return ids


@given(ids=st.lists(st.integers(0, 2**31 - 1), min_size=2, max_size=50), gamma=st.floats(0.01, 0.99))
def test_the_hash_is_the_shards(ids: list[int], gamma: float) -> None:
    numbers = np.array(ids)
    expected = favoured(torch.tensor(ids[:-1]), torch.tensor(ids[1:]), gamma)
    assert greenlist.green(numbers[:-1], numbers[1:], gamma).tolist() == expected.tolist()


def test_the_hash_is_the_shards_for_a_whole_vocabulary() -> None:
    ids = np.arange(50_000)
    expected = favoured(torch.tensor([[0], [49_999]]), torch.arange(50_000), greenlist.GAMMA)
    assert (greenlist.green(ids[[0, -1], None], ids) == expected.numpy()).all()


@given(ids=IDS, gamma=st.sampled_from([0.25, 0.5, 0.75]))
def test_each_pair_of_neighbours_counts_once(tokenizer: Tokenizer, ids: list[int], gamma: float) -> None:
    pairs = sorted(set(itertools.pairwise(ids)))
    first, second = torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2).T
    green = int(favoured(first, second, gamma).sum())
    found = detect(words(ids), tokenizer, gamma)
    assert (found.scored, found.green) == (len(pairs), green)
    if pairs:
        z = (green - gamma * len(pairs)) / math.sqrt(len(pairs) * gamma * (1 - gamma))
        assert found.z == pytest.approx(z)
    assert detect(words(ids * 5), tokenizer, gamma).scored <= len(pairs) + 1, "repeating adds at most one pair"


@pytest.mark.parametrize("text", ["", "7", "<|end|>", "7<|end|>7", "<|end|><|end|>"])
def test_where_no_token_counts(tokenizer: Tokenizer, text: str) -> None:
    assert detect(text, tokenizer) == Detection(z=0.0, scored=0, green=0, p_value=1.0)


def test_special_tokens_do_not_count(tokenizer: Tokenizer) -> None:
    assert detect(words([1, 2, SIZE, 3, 4, SIZE, 5]), tokenizer).scored == 2


def test_a_tokenizer_that_frames_texts_adds_nothing(tokenizer: Tokenizer) -> None:
    framing = Tokenizer.from_str(tokenizer.to_str())
    framing.post_processor = processors.TemplateProcessing("9 $A 9", special_tokens=[("9", 9)])
    assert framing.encode("1 2").ids == [9, 1, 2, 9]
    assert detect("1 2 3", framing).scored == 2


@pytest.mark.parametrize("gamma", [0.25, 0.5, 0.75])
def test_the_score_and_how_likely_it_is(tokenizer: Tokenizer, gamma: float) -> None:
    most = math.sqrt(100 * (1 - gamma) / gamma)
    marked = detect(words(write(101, green=True, gamma=gamma)), tokenizer, gamma)
    assert (marked.scored, marked.green) == (100, 100) and marked.z == pytest.approx(most)
    assert marked.p_value == pytest.approx(math.erfc(most / math.sqrt(2)) / 2)
    unmarked = detect(words(write(101, green=False, gamma=gamma)), tokenizer, gamma)
    assert (unmarked.scored, unmarked.green) == (100, 0) and unmarked.z == pytest.approx(-100 * gamma / (most * gamma))
    assert unmarked.p_value == pytest.approx(1.0)


@pytest.mark.parametrize("gamma", [0.0, 1.0, -0.1, math.nan])
def test_gamma_is_a_part(tokenizer: Tokenizer, gamma: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        detect("1 2 3", tokenizer, gamma)


class Program:
    """The program, with a tokenizer of its own."""

    def __init__(self, tokenizer: Path, directory: Path, capture: pytest.CaptureFixture[str]) -> None:
        self.tokenizer, self.directory, self._capture = tokenizer, directory, capture

    def run(self, *arguments: str) -> tuple[int, str, str]:
        """Exit status and what is written."""
        try:
            status = main([*arguments, "--tokenizer", str(self.tokenizer)])
        except SystemExit as end:
            status = int(str(end.code))
        return (status, *self._capture.readouterr())

    def file(self, text: str) -> str:
        path = self.directory / "text"
        path.write_text(text)
        return str(path)


@pytest.fixture
def program(tokenizer: Tokenizer, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Program:
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    return Program(tmp_path / "tokenizer.json", tmp_path, capsys)


def test_verdicts(program: Program) -> None:
    status, out, err = program.run(program.file(words(write(101, green=True))))
    assert (status, err) == (MARKED, "")
    assert out.splitlines() == [
        "z-score: 10.00", "tokens counted: 100", "green: 100 (100.0%; 50.0% by chance)", "p-value: 7.62e-24",
        "verdict: watermarked",
    ]  # fmt: skip
    status, out, _ = program.run(program.file(words(write(101, green=False))))
    assert (status, out.splitlines()[-1]) == (UNMARKED, "verdict: not watermarked")
    status, out, _ = program.run(program.file(words(write(17, green=True))))
    assert (status, out.splitlines()[-1]) == (UNMARKED, "verdict: too short to tell: z is at most 4.00")
    assert program.run(program.file(words(write(17, green=True))), "--threshold", "3.9")[0] == MARKED


def test_gamma_is_an_option(program: Program) -> None:
    text = program.file(words(write(101, green=True, gamma=0.25)))
    assert "(100.0%; 25.0% by chance)" in program.run(text, "--gamma", "0.25")[1]
    assert "(100.0%; 75.0% by chance)" in program.run(text, "--gamma", "0.75")[1], "a smaller part is in a larger one"


def test_the_text_may_come_from_standard_input(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(words(write(101, green=True)).encode())))
    assert program.run()[0] == MARKED


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["/none/such"], "/none/such: No such file or directory"),
        (["/"], "/: Is a directory"),
        (["/dev/null", "--gamma", "1.5"], "gamma has to be between 0 and 1, and is 1.5"),
        (["/dev/null", "--gamma", "x"], "argument --gamma: invalid float value: 'x' (--help tells more)"),
        (["/dev/null", "--delta", "2"], "unrecognized arguments: --delta 2 (--help tells more)"),
    ],
)
def test_mistakes_are_told_in_one_line(program: Program, arguments: list[str], line: str) -> None:
    assert program.run(*arguments) == (FAILED, "", f"Error: {line}\n")


def test_bytes_that_are_no_text(program: Program) -> None:
    (program.directory / "text").write_bytes(b"1 2 \xff")
    line = f"Error: {program.directory}/text is no UTF-8: byte 4 is 0xff\n"
    assert program.run(str(program.directory / "text")) == (FAILED, "", line)


@pytest.mark.parametrize("place", ["none/such", "/none/such", "such.gguf", "package:none/such.gguf", "broken.json"])
def test_tokenizers_that_are_not_there(program: Program, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(program.directory)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (program.directory / "broken.json").write_text("{")
    program.tokenizer = Path(place)
    status, out, err = program.run("/dev/null")
    assert (status, out, len(err.splitlines())) == (FAILED, "", 1)
    assert err.startswith("Error: ") and place.split("/")[-1].removesuffix(".gguf") in err

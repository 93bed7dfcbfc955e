"""What Medusa heads guess is what plain torch says of them, on any number of ranks; and what is learnt from it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import silu

from tests.families.harness import ThreadGroup
from tests.medusa_heads import random_heads, write_heads
from tests.models import HIDDEN, VOCABULARY, needs, write_llama
from tgi_server.kernels.formats import rounded
from tgi_server.layers.parallel import Group
from tgi_server.models.families import read_spec
from tgi_server.models.load import load_model
from tgi_server.models.model import Model
from tgi_server.speculate.base import Surroundings
from tgi_server.speculate.medusa import Chances, Medusa, load, ranked, unranked

KNOWN = np.zeros(3, np.int64)
WIDTHS = {7: 2, 3: 3, 9: 1, 4: 0}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("made")
    write_llama(place)
    return place


def states() -> Tensor:
    """Of the sequences in `WIDTHS`."""
    return torch.randn(len(WIDTHS), HIDDEN, generator=torch.Generator().manual_seed(5))


def expected(place: Path, heads: dict[str, Tensor], layers: int, shared: bool) -> dict[int, list[int]]:
    """The guesses of all heads, as the paper has them."""
    found: dict[int, list[int]] = {id: [] for id in WIDTHS}
    for head in range(3):
        x = states()
        for layer in range(layers):
            name = f"{head}.{layer}.linear"
            x = x + silu(x @ heads[f"{name}.weight"].T + heads[f"{name}.bias"])
        weight = heads.get(f"{head}.{layers}.weight")
        own = load_file(place / "model.safetensors")["model.embed_tokens.weight"]
        scores = x @ rounded(own if weight is None else weight).widened(torch.float32).T
        assert shared == (weight is None)
        for id, token in zip(WIDTHS, scores.argmax(dim=1).tolist(), strict=True):
            found[id].append(token)
    return found


def drafters(place: Path, directory: Path, world: int, most: int | None = None, plain: bool = False) -> list[Medusa]:
    spec, of = read_spec(place), needs(plain=plain)
    groups = ThreadGroup.of(world)
    return [
        load(Surroundings(load_model(place, spec, of, 64, group=group), spec, group, of), directory, most)
        for group in groups
    ]


class Scores:
    """A model of which nothing is known but its scores, as one is whose head is more than a product."""

    def __init__(self, model: Model) -> None:
        self.logits = model.logits


def test_heads_share_what_scores_the_models_own_tokens(place: Path, tmp_path: Path) -> None:
    spec, of, groups = read_spec(place), needs(), ThreadGroup.of(2)
    heads = random_heads(HIDDEN, VOCABULARY, shared=True)
    directory = write_heads(tmp_path, heads, "base")

    def guess(group: Group) -> dict[int, list[int]]:
        model = Scores(load_model(place, spec, of, 64, group=group))
        rank = load(Surroundings(cast(Model, model), spec, group, of), directory)
        rank.see([*WIDTHS], states(), range(4))
        return rank.guess(dict.fromkeys(WIDTHS, 3))

    with ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(guess, groups))
    right = [silu(states() @ heads[f"{n}.0.linear.weight"].T + heads[f"{n}.0.linear.bias"]) for n in range(3)]
    own = load_file(place / "model.safetensors")["model.embed_tokens.weight"]
    exact = torch.stack([((states() + x) @ own.T).argmax(dim=1) for x in right], dim=1)
    assert answers == [dict(zip(WIDTHS, exact.tolist(), strict=True))] * 2


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize(("layers", "shared"), [(1, False), (1, True), (2, False), (2, True)])
def test_guesses_are_those_of_the_heads(place: Path, tmp_path: Path, world: int, layers: int, shared: bool) -> None:
    heads = random_heads(HIDDEN, VOCABULARY, 3, layers, shared)
    ranks = drafters(place, write_heads(tmp_path, heads, "base"), world, plain=world == 2)

    def guess(rank: Medusa) -> dict[int, list[int]]:
        rank.see([*WIDTHS], torch.cat([torch.full((1, HIDDEN), torch.nan), states()]), [1, 2, 3, 4])
        return rank.guess(WIDTHS)

    with ThreadPoolExecutor(world) as pool:
        answers = list(pool.map(guess, ranks))
    full = expected(place, heads, layers, shared)
    assert answers == [{id: full[id][:width] for id, width in WIDTHS.items()}] * world
    assert len({tuple(tokens) for tokens in full.values()}) > 1


def test_the_first_heads_are_used(place: Path, tmp_path: Path) -> None:
    heads = random_heads(HIDDEN, VOCABULARY)
    (drafter,) = drafters(place, write_heads(tmp_path, heads, "base"), 1, most=2)
    assert drafter.chances(3, KNOWN, 8) == [], "nothing was seen of it"
    drafter.see([*WIDTHS], states(), range(4))
    assert len(drafter.chances(3, KNOWN, 8)) == 2 and len(drafter.chances(3, KNOWN, 1)) == 1
    assert drafter.guess({3: 2})[3] == expected(place, heads, 1, False)[3][:2]
    drafter.forget(3)
    assert drafter.chances(3, KNOWN, 8) == []
    assert drafter.seconds(2) > 0


def test_states_stay_with_their_texts(place: Path, tmp_path: Path) -> None:
    """While others come, go, and are seen in steps of their own."""
    heads = random_heads(HIDDEN, VOCABULARY)
    (drafter,) = drafters(place, write_heads(tmp_path, heads, "base"), 1)
    drafter.see([*WIDTHS], states(), range(4))
    others = range(100, 140)
    drafter.see(others, torch.randn(40, HIDDEN), range(40))
    for id in (*others, 7):
        drafter.forget(id)
    drafter.see([50], torch.randn(1, HIDDEN), [0])
    full = expected(place, heads, 1, False)
    assert drafter.guess({9: 3, 3: 3}) == {9: full[9], 3: full[3]}


def test_what_is_learnt() -> None:
    chances = Chances(3)
    before = [*chances.of(1)]
    for _ in range(40):
        chances.learn(1, [5, 6, 7], [5, 9])  # the first is right, the second is not, of the third nothing is known
    first, second, third = chances.of(1)
    assert first > 0.9 and second < 0.1 and third == pytest.approx(before[2], abs=0.05)
    newcomer = [*chances.of(2)]
    assert before[0] < newcomer[0] < first and second < newcomer[1] < before[1]
    for _ in range(2000):
        chances.learn(1, [], [5])
    assert chances.of(1)[1] > 0.4, "what was never right is tried again"
    chances.forget(1)
    assert chances.of(1) != [first, second, third]


def test_the_best_score_wins_and_of_equal_ones_the_first_id() -> None:
    scores = torch.tensor([-torch.inf, -3.5, -0.0, 0.0, 1e-30, 2.0, 2.0, torch.inf])
    ids = torch.arange(8) * 20000
    order = ranked(scores, ids)
    assert torch.equal(unranked(order), ids)
    assert order[5] > order[6] > order[4] > order[3] >= order[2] > order[1] > order[0] and order[7] == order.max()

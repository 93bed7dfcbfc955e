"""A whole decoder whose products go through tile registers, emulated where the processor has none."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.families.harness import generate
from tests.models import VOCABULARY, needs, write_llama
from tgi_server.kernels.native import build
from tgi_server.kernels.table import best


@pytest.fixture
def tiles(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    if build.tiles() is not None:
        monkeypatch.setattr(build, "FLAGS", [*build.FLAGS, "-DEMULATED_TILES"])
    best.cache_clear()
    assert build.tiles() is None
    yield
    best.cache_clear()


@pytest.mark.usefixtures("tiles")
@pytest.mark.parametrize("chunk", [None, 16])
def test_scores_are_those_of_vectors(tmp_path: Path, chunk: int | None) -> None:
    """Recorded steps of several sequences; the sums differ in their order only."""
    write_llama(tmp_path)
    prompts = [[7, 3, 9] * 12, list(range(20)), [8], [5, 6, 7, 8, 9]]
    _, with_tiles = generate(tmp_path, prompts, needs(dtype=torch.bfloat16), chunk=chunk)
    build.use_tiles(False)
    try:
        _, with_vectors = generate(tmp_path, prompts, needs(dtype=torch.bfloat16), chunk=chunk)
    finally:
        build.use_tiles(True)
    for got, right in zip(with_tiles, with_vectors, strict=True):
        assert got.shape[1] == VOCABULARY
        assert (got[0] - right[0]).norm() <= 0.02 * right[0].norm()

"""Made once a class: its checkpoint, the prompts, and what transformers says of them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.families.harness import NEW_TOKENS, VOCABULARY, Generated


@pytest.fixture(scope="class")
def directory(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp(request.cls.config)
    request.cls.save(path)
    return path


@pytest.fixture(scope="class")
def prompts(request: pytest.FixtureRequest) -> list[list[int]]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(2, VOCABULARY, (n,), generator=generator).tolist() for n in request.cls.lengths]


@pytest.fixture(scope="class")
def expected(request: pytest.FixtureRequest, prompts: list[list[int]]) -> Generated:
    """One prompt at a time, and without a cache."""
    model, tokens, scores = request.cls.make(), [], []
    for prompt in prompts:
        text: list[int] = []
        for _ in range(NEW_TOKENS):
            text.append(int(request.cls.scores(model, prompt, text)[-1].argmax()))
        tokens.append(text)
        scores.append(request.cls.scores(model, prompt, text)[:-1])
    return tokens, scores

"""What llguidance needs to know of a small vocabulary."""

from pathlib import Path

import pytest

from tests.router_app import TOKENIZER


@pytest.fixture(scope="session")
def tokenizer_json(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "tokenizer.json"
    TOKENIZER.save(str(path))
    return path

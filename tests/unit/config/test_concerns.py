"""Whom an option says it concerns is who reads it, as far as the sources tell."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import tgi_server
from tgi_server.config import options

PACKAGE = Path(tgi_server.__file__).parent
COLUMNS = {
    "shard": ("shard", "models", "cache", "kernels", "layers", "quantize", "rope", "speculate"),
    "router": ("router", "engine", "batching", "rpc/client.py"),
}
HOLDERS = {"config", "options", "limits", "launch.config", "self._config", "self._options", "self._limits"}
"""What configurations are called there: other things have names like those of options too (`tensor.dtype`)."""

BOUNDS = {"max_batch_prefill_tokens"}
"""Matter to shards where they bound what is `auto`, which `launcher.stage` compares."""


def read_in(path: Path) -> Iterator[str]:
    """The options that a file reads off a configuration."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute) and node.attr in options.TYPES and ast.unparse(node.value) in HOLDERS:
            yield node.attr


@pytest.mark.parametrize("column", COLUMNS)
def test_who_reads_an_option_is_concerned(column: str) -> None:
    places = [PACKAGE / name for name in COLUMNS[column]]
    files = [file for place in places for file in ([place] if place.is_file() else place.rglob("*.py"))]
    found = {name for file in files for name in read_in(file)}
    assert len(found) > 3, "nothing was found: the names of configurations have changed"
    assert {name for name in found - BOUNDS if column not in options.concerns(name)} == set()

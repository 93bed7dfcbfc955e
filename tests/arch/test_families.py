"""A family, a rope kind, a quantisation method is one file: nothing else names it, and it has a test."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tgi_server.models.families import families
from tgi_server.rope.kinds import kinds

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "tgi_server"
FAMILIES = sorted(path.stem for path in (PACKAGE / "models" / "families").glob("[a-z]*.py"))
GGUF = "launcher/gguf"
"""Where names are those of GGUF's own architectures and tokenizers."""


@pytest.mark.parametrize("name", FAMILIES)
def test_nothing_else_names_a_family(name: str) -> None:
    word = re.compile(rf"\bfamilies[./]{name}\b|[\"']{name}[\"']")
    own = PACKAGE / "models" / "families" / f"{name}.py"
    others = [path for path in PACKAGE.rglob("*.py") if path != own and word.search(path.read_text(encoding="utf-8"))]
    strange = [str(path.relative_to(PACKAGE)) for path in others]
    assert [place for place in strange if not place.startswith(GGUF)] == []


@pytest.mark.parametrize(("folder", "shared"), [
    ("quantize", {"base", "packed", "pick", "settings"}), ("rope", {"base", "kinds", "table"}),
    ("speculate", {"base", "costs", "evidence", "history", "lookup", "passage", "success"}),
    ("launcher/gguf/architectures", set()),
])  # fmt: skip
def test_nothing_imports_one_kind_or_method(folder: str, shared: set[str]) -> None:
    """They are found by their folder or named by a YAML file; only what runs without any of them names its own."""
    own = {path.stem for path in (PACKAGE / folder).glob("[a-z]*.py")} - shared
    word = re.compile(rf"tgi_server\.{folder.replace('/', '.')}\.({'|'.join(own) or 'nothing'})\b")
    named = {
        (str(path.relative_to(PACKAGE)), match)
        for path in PACKAGE.rglob("*.py")
        for match in word.findall(path.read_text(encoding="utf-8"))
    }
    without = ("config/schema", "models/check", "models/weights")
    chosen = {("config/schema.py", "auto"), *(("speculate/auto.py", drafter) for drafter in ("ngram", "medusa"))}
    assert named <= {(f"{file}.py", "none") for file in without} | chosen


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_is_tested(name: str) -> None:
    assert "FamilyTests" in (ROOT / "tests" / "families" / f"test_{name}.py").read_text()


def test_every_family_is_found() -> None:
    assert {describe.__module__.rpartition(".")[2] for describe in families().values()} == set(FAMILIES)


def test_every_rope_kind_is_found() -> None:
    assert {"default", "linear", "dynamic", "yarn", "llama3", "longrope", "su", "proportional"} == set(kinds())

"""Environment variables are read in `config`, and passed to children by `launcher.process`; nowhere else."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import tgi_server

PACKAGE = Path(tgi_server.__file__).parent
NAMES = {"environ", "environb", "getenv", "getenvb", "putenv", "unsetenv"}


def touches_environment(source: str) -> bool:
    return any(
        (isinstance(node, ast.Attribute) and node.attr in NAMES)
        or (isinstance(node, ast.ImportFrom) and node.module == "os" and NAMES & {alias.name for alias in node.names})
        for node in ast.walk(ast.parse(source))
    )


@pytest.mark.parametrize(("source", "expected"), [
    ("import os\nos.environ['A']", True), ("import os as o\nprint(o.getenv('A'))", True),
    ("from os import environ as e", True), ("def f(environ): return environ['A']", False), ("'os.environ'", False),
])  # fmt: skip
def test_the_check_itself(source: str, expected: bool) -> None:
    assert touches_environment(source) is expected


def test_only_config_and_the_start_of_children_touch_the_environment() -> None:
    users = {path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py") if touches_environment(path.read_text())}
    assert {path for path in users if path.parts[0] != "config"} == {Path("launcher/process.py")}

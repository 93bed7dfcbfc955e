"""What is known of the origin of a model and of this program."""

from __future__ import annotations

from pathlib import Path

import pytest

from tgi_server.launcher import origin

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize("tag", ["text-generation", None])
def test_a_note_is_for_all_snapshots_of_a_model(tag: str | None, tmp_path: Path) -> None:
    one, other = (tmp_path / "snapshots" / name for name in ("one", "other"))
    one.mkdir(parents=True)
    origin.note(one, tag)
    assert origin.from_hub(tmp_path, other) == origin.Model(tmp_path, "other", tag)


@pytest.mark.parametrize("text", [None, "", "{", "[]", "{}", '{"pipeline_tag": 1}'])
def test_a_note_that_is_none(text: str | None, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / ".tgi_server.json").write_text(text)
    assert origin.from_hub(tmp_path, tmp_path / "snapshots/one").pipeline_tag is None


@pytest.mark.parametrize("files", [
    {"HEAD": COMMIT}, {"HEAD": "ref: refs/heads/a/b", "refs/heads/a/b": COMMIT},
    {"HEAD": "ref: refs/heads/a", "packed-refs": f"# pack-refs\n{'f' * 40} refs/heads/ba\n{COMMIT} refs/heads/a\n"},
])  # fmt: skip
def test_the_commit_of_a_checkout(files: dict[str, str], tmp_path: Path) -> None:
    for name, text in files.items():
        file = tmp_path / ".git" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{text}\n")
    assert origin.program_commit({}, tmp_path) == COMMIT
    assert origin.program_commit({"GIT_SHA": "abc"}, tmp_path) == "abc"


@pytest.mark.parametrize("head", [None, "ref: refs/heads/unborn"])
def test_no_commit(head: str | None, tmp_path: Path) -> None:
    if head is not None:
        (tmp_path / ".git").mkdir()
        (tmp_path / ".git/HEAD").write_text(head)
    assert origin.program_commit({"GIT_SHA": ""}, tmp_path) is None


def test_docker_label() -> None:
    assert origin.docker_label({"DOCKER_LABEL": "sha-1234"}) == "sha-1234"
    assert origin.docker_label({"DOCKER_LABEL": ""}) is None

"""Files of one's own that are malformed: one line each, which names the file, and the line or the key."""

from __future__ import annotations

from pathlib import Path

import pytest

from tgi_server.config import load
from tgi_server.errors import UsageError

HEADER = b"# @package _global_\n"
PLACE = "deployment/mine.yaml"
BY_LINE = {
    "a tab before a name": (b"port: 3\n\tmax_best_of: 4\n", 3, "begins with a tab"),
    "a tab for indentation": (b"job:\n\tclients: 4\n", 3, "begins with a tab"),
    "indented too far": (b"port: 3\n  max_best_of: 4\n", 3, "indented more"),
    "indented less": (b"job:\n    clients: 4\n  requests: 3\n", 4, "while parsing a block mapping from line 2 on"),
    "a colon in a value": (b"model_id: a: b\n", 2, "not in quotes"),
    "the same name twice": (b"port: 3\nmax_best_of: 4\nport: 5\n", 4, "duplicate key port"),
    "the same field twice": (b"job:\n  clients: 1\n  clients: 2\n", 4, "duplicate key clients"),
    "a list": (b"- port\n- 3\n", 2, "expected names with values (port: 8080), not a list"),
    "a text": (b"port\n", 2, "expected names with values (port: 8080), not a single value"),
    "a list for a part": (b"port: 3\njob: [1]\n", 3, "job: expected a part, which names its _target_, not a list"),
    "defaults that are no list": (b"defaults: {batching: latency}\n", 2, "defaults: expected a list, not a mapping"),
    "Latin-1": (b"port: 3\nmodel_id: M\xfcller\n", 3, "not a text in UTF-8"),
    "a zero byte": (b"port: 3\nmodel_id: a\x00b\n", 3, "a character that YAML does not allow (#x0000)"),
    "an open quote": (b"port: 3\nmodel_id: 'abc\n", 4, "while scanning a quoted scalar from line 3 on"),
    "an open bracket": (b"cors_allow_origin: [a, b\nport: 3\n", 3, "while parsing a flow sequence from line 2 on"),
    "an unknown alias": (b"port: *x\n", 2, "undefined alias 'x'"),
    "an unknown tag": (b"port: !foo 3\n", 2, "tag '!foo'"),
    "code": (b"model_id: !!python/object/apply:os.system ['true']\n", 2, "os.system"),
    "two documents": (b"port: 3\n---\nport: 4\n", 3, "expected a single document"),
    "a name that is a truth value": (b"port: 3\nyes: 3\n", 3, "the name is no text to YAML"),
    "a name that is nothing": (b"? \n: 3\n", 2, "the name is no text to YAML"),
    "a name that is a list": (b"? [a]\n: 3\n", 2, "the name is no text to YAML"),
}
BY_KEY = {
    "an unknown option": (b"prot: 3\n", "unknown option prot (did you mean port?)"),
    "an unknown field": (b"job:\n  clents: 3\n", "unknown option job.clents"),
    "a text for a number": (b"port: many\n", "port=many: expected a whole number"),
    "a list for a number": (b"port: [1]\n", "port=[1]: expected a whole number"),
    "a text for a list": (b"cors_allow_origin: x\n", "cors_allow_origin=x: expected a list of texts"),
    "a text for a part": (b"attention: sdpa\n", "attention=sdpa: expected a part, which names its _target_"),
    "nothing for a number": (b"port:\n", "port=null: expected a whole number"),
    "a number out of bounds": (b"port: 99999\n", "port=99999: must be at most 65535"),
    "an unknown interpolation": (b"port: ${nothing}\n", "port: Interpolation key 'nothing' not found"),
    "half an interpolation": (b"port: ${bad\n", "port: no viable alternative"),
    "a set": (b"model_id: !!set {x}\n", "model_id: Value 'set' is not a supported"),
    "an unknown package": (b"# @package nope\nport: 3\n", "unknown option nope"),
    "within itself": (b"model_id: &x {b: *x}\n", "a value lies too deep, or within itself"),
}


def refusal(directory: Path, content: bytes) -> str:
    (directory / "deployment").mkdir()
    (directory / PLACE).write_bytes(content)
    with pytest.raises(UsageError) as error:
        load.compose(["deployment=mine"], str(directory))
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(("content", "line", "words"), BY_LINE.values(), ids=BY_LINE)
def test_what_yaml_cannot_read_is_told_by_line(tmp_path: Path, content: bytes, line: int, words: str) -> None:
    told = refusal(tmp_path, HEADER + content)
    assert told.startswith(f"{tmp_path}/{PLACE}, line {line}: ") and words in told


@pytest.mark.parametrize(("content", "words"), BY_KEY.values(), ids=BY_KEY)
def test_what_has_another_meaning_is_told_by_key(tmp_path: Path, content: bytes, words: str) -> None:
    told = refusal(tmp_path, content if b"@package" in content else HEADER + content)
    assert words in told and PLACE in told


@pytest.mark.parametrize(("content", "words"), [
    (b"", f"{PLACE}: the file sets nothing"),
    (b"# later\n\n", f"{PLACE}: the file sets nothing"),
    (b"port: 3\n", f"{PLACE}: its first line has to be `# @package _global_`"),
    (b"\xef\xbb\xbf" + HEADER + b"port: 3\n", f"{PLACE}, line 1: begins with a byte order mark"),
    ("# @package _global_\nport: 3\n".encode("utf-16"), f"{PLACE}, line 1: not a text in UTF-8"),
    (HEADER + b"api_key: [s3cret]\n", "api_key=***: expected a text, or null"),
    (HEADER + b"api_key: ${s3cret\n", "api_key: cannot be read"),
])  # fmt: skip
def test_whole_files_and_secrets(tmp_path: Path, content: bytes, words: str) -> None:
    told = refusal(tmp_path, content)
    assert words in told and PLACE in told and "s3cret" not in told


@pytest.mark.parametrize("content", [
    HEADER, HEADER.replace(b"\n", b"\r\n") + b"port: 3\r\n", HEADER + b"<<: {port: 3}\n",
    HEADER + "model_id: Müller/モデル 🙂\n".encode(), HEADER + b"port: 3",
])  # fmt: skip
def test_what_is_fine(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "deployment").mkdir()
    (tmp_path / PLACE).write_bytes(content)
    config = load.compose(["deployment=mine"], str(tmp_path))
    assert (b"port" not in content) == (config.port == 3000)


def test_other_files_of_the_directory_may_be_anything(tmp_path: Path) -> None:
    (tmp_path / "deployment").mkdir()
    (tmp_path / "deployment/other.yaml").write_bytes(b"\xff")
    assert load.compose([], str(tmp_path)).port == 3000


def test_a_main_file_is_read_likewise(tmp_path: Path) -> None:
    (tmp_path / "site.yaml").write_text("defaults: [config, _self_]\nport: 3\nport: 4\n")
    with pytest.raises(UsageError, match=f"^{tmp_path}/site.yaml, line 3: found duplicate key port"):
        load.compose([], str(tmp_path), "site")

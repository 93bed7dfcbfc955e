"""Files of API keys."""

from __future__ import annotations

from pathlib import Path

import pytest

from tgi_server import api_keys
from tgi_server.config.schema import NetworkOptions
from tgi_server.errors import ConfigError


def of(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    return str(path)


def test_both_options_count_together(tmp_path: Path) -> None:
    path = of(tmp_path / "keys", b"\xef\xbb\xbf# of the team\r\n\r\n  sk-1 \r\n# sk-2\nsk#3\n")
    assert api_keys.read(NetworkOptions()) == []
    assert api_keys.read(NetworkOptions(api_key="sk-0")) == ["sk-0"]
    assert api_keys.read(NetworkOptions(api_key_file=path)) == ["sk-1", "sk#3"]
    assert api_keys.read(NetworkOptions(api_key="sk-0", api_key_file=path)) == ["sk-0", "sk-1", "sk#3"]


@pytest.mark.parametrize(("content", "words"), [
    (b"", "there are no keys in it"),
    (b"# sk-1\n\n   \n", "there are no keys in it"),
    (b"sk-1\n\ns3 cret\n", "line 3 is no key: expected visible ASCII characters without spaces"),
    ("s3crét\n".encode(), "line 1 is no key: expected visible ASCII characters without spaces"),
    (b"s3cret\x00", "line 1 is no key"),
    (b"s3cr\xe9t\n", "not a text in UTF-8"),
])  # fmt: skip
def test_a_bad_file_is_told_but_not_what_is_in_it(tmp_path: Path, content: bytes, words: str) -> None:
    path = of(tmp_path / "keys", content)
    with pytest.raises(ConfigError) as error:
        api_keys.read(NetworkOptions(api_key_file=path))
    assert str(error.value).startswith(f"api_key_file={path}: {words}") and "\n" not in str(error.value)
    assert "s3" not in str(error.value).removeprefix(f"api_key_file={path}")


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    for path, words in ((tmp_path / "none", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(ConfigError, match=f"^api_key_file={path}: cannot be read: {words}"):
            api_keys.read(NetworkOptions(api_key_file=str(path)))

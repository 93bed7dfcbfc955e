"""The keys that clients of a server send (options `api_key` and `api_key_file`). Stdlib only."""

from __future__ import annotations

import re
from pathlib import Path

from tgi_server.config.schema import NetworkOptions
from tgi_server.errors import ConfigError

_WANTED = "expected visible ASCII characters without spaces, as they have to fit into a header"


def read(options: NetworkOptions) -> list[str]:
    """All keys that the options name, each of which is as good as the others; none where everybody may call.

    Raises:
        ConfigError: there is a file of keys, and nothing can be made of it.
    """
    keys = [] if options.api_key is None else [options.api_key]
    if options.api_key_file is not None:
        try:
            keys += read_file(options.api_key_file)
        except ValueError as error:
            raise ConfigError(f"api_key_file={options.api_key_file}: {error}") from None
    return keys


def read_file(path: str) -> list[str]:
    """The keys in a file, one a line; empty lines and those that begin with # are none.

    Raises:
        ValueError: it cannot be read or has no keys, or a line is no key; says which one, but not what is in it.
    """
    try:
        lines = Path(path).expanduser().read_text(encoding="utf-8-sig").split("\n")
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ValueError("not a text in UTF-8") from None
    stripped = [(number, line.strip()) for number, line in enumerate(lines, 1)]
    keys = [(number, line) for number, line in stripped if line and not line.startswith("#")]
    for number, key in keys:
        if reason := unusable(key):
            raise ValueError(f"line {number} is no key: {reason}")
    if not keys:
        raise ValueError("there are no keys in it; write one a line, or leave it out to let everybody call")
    return [key for _, key in keys]


def unusable(key: str) -> str | None:
    """Why a text cannot be a key, None where it can."""
    return None if re.fullmatch(r"[!-~]+", key) else _WANTED

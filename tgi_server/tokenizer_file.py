"""tokenizer.json as this server reads it."""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer

from tgi_server.errors import ModelError


def read(path: Path) -> Tokenizer:
    """The tokenizer in a file; its truncation and padding are for training and switched off.

    Raises:
        ModelError: the file is missing or broken.
    """
    if not path.is_file():
        raise ModelError(f"{path} does not exist: the model has no tokenizer that this server can read")
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the binding has no narrower class
        raise ModelError(f"{path} cannot be read: {error}") from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer

"""Makes a tokenizer.json, as a program: `python -m tgi_server.launcher.tokenizer MODEL VOCABULARY TARGET`.

Transformers converts the file VOCABULARY in the directory MODEL, without code that comes with the model. The result has
to give the same ids as the library that the file is made for.
"""

from __future__ import annotations

import json
import sys
import tempfile
import warnings
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from transformers import AutoTokenizer, GPT2Tokenizer, PreTrainedTokenizerFast

from tgi_server.errors import ModelError
from tgi_server.launcher import checkpoint, conversions, job, pieces
from tgi_server.models.files import json_object

TEXTS = (
    "Hello world, it's 12345 o'clock.", "naïve café — “quoted” ﬁ ½ Ⅳ", "日本語とไทย и русский", "🙂👩‍👩‍👧 e\u0301",
    "def f(x):\n    return x  # two\n\n\tdone",
)  # fmt: skip
_BINARY = (".model", ".tiktoken")
_LONGEST = 300
"""Characters of a reason."""
_GENERIC_NAME = "tokenizer.model"
"""Where transformers looks for a vocabulary of any kind when it knows no class for the model."""


def make(source: Path, vocabulary: str) -> str:
    """The tokenizer.json that stands for the file `vocabulary` and the settings in `source`.

    Raises:
        ModelError: it cannot be made, or would not do what the file says.
    """
    settings = {}
    if (source / "tokenizer_config.json").is_file():
        settings = json_object(source / "tokenizer_config.json")
    with tempfile.TemporaryDirectory() as place:
        stage = Path(place)
        _fill(stage, source, vocabulary)
        try:
            return _made(stage, stage / vocabulary, settings)
        except Exception as error:  # whatever a library raises for files that it cannot read
            reason = " ".join(str(error).replace(f"{stage}/", "").split()) or type(error).__name__
            raise ModelError(
                f"{source} has no {checkpoint.TOKENIZER}, and none can be made of {vocabulary}: {reason[:_LONGEST]}"
            ) from None


def _fill(stage: Path, source: Path, vocabulary: str) -> None:
    """Put the files of the tokenizer into `stage`, under the names that transformers knows."""
    for name in ("config.json", *checkpoint.tokenizer_names(source)):
        (stage / name).symlink_to((source / name).absolute())
    if Path(vocabulary).suffix in _BINARY and not (stage / _GENERIC_NAME).exists():
        (stage / _GENERIC_NAME).symlink_to((source / vocabulary).absolute())


def _made(stage: Path, vocabulary: Path, settings: Mapping[str, Any]) -> str:
    if vocabulary.suffix not in _BINARY:
        return _of_words(stage, vocabulary, settings)
    model = pieces.read(vocabulary)
    if model is None:
        return _backend(PreTrainedTokenizerFast.from_pretrained(stage)).to_str()
    generic = "auto_map" in settings  # code of the model's own, which would only read the same file
    reader = PreTrainedTokenizerFast if generic else AutoTokenizer
    tokenizer = reader.from_pretrained(stage, trust_remote_code=False)
    return model.faithful(_backend(tokenizer), settings, TEXTS)


def _of_words(stage: Path, vocabulary: Path, settings: Mapping[str, Any]) -> str:
    """Of lists of tokens and merges. Byte-level ones give any text back."""
    if vocabulary.suffix != ".json":
        return _backend(AutoTokenizer.from_pretrained(stage, trust_remote_code=False)).to_str()
    if not (stage / "merges.txt").is_file():
        raise ValueError("there is no merges.txt beside it")
    tokenizer = None
    with suppress(Exception):  # of a class that reads no such files, or comes with the model
        tokenizer = _backend(AutoTokenizer.from_pretrained(stage, trust_remote_code=False))
    if tokenizer is None or not _gives_back(tokenizer):
        tokenizer = _backend(GPT2Tokenizer.from_pretrained(stage))
    if not _gives_back(tokenizer):
        raise ValueError("it would lose a part of some texts")
    return tokenizer.to_str()


def _backend(tokenizer: Any) -> Tokenizer:
    backend: Tokenizer = tokenizer.backend_tokenizer
    return backend


def _gives_back(tokenizer: Tokenizer) -> bool:
    return all(tokenizer.decode(tokenizer.encode(text, add_special_tokens=False).ids) == text for text in TEXTS)


def main(source: Path, vocabulary: str, target: Path, report: job.Report) -> str:
    """Make it in the cache, unless another process has just done so. Returns the directory."""
    report(f"Making a tokenizer of {vocabulary}", 0.0)

    def write(directory: Path) -> None:
        made = json.loads(make(source, vocabulary))
        (directory / checkpoint.TOKENIZER).write_text(json.dumps(made, ensure_ascii=False), encoding="utf-8")

    conversions.build(target, write, report)
    return str(target)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    job.perform(lambda report: main(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), report))

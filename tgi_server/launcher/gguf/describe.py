"""What a GGUF file will become, found out without its weights.

As a program, `python -m tgi_server.launcher.gguf.describe SOURCE DIRECTORY DTYPE` writes config.json, so that a model
that cannot be served is refused before anything slow is done, and returns its tensors: names, number formats, shapes.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from gguf import Keys

from tgi_server.config.schema import DType
from tgi_server.errors import ModelError
from tgi_server.launcher import job
from tgi_server.launcher.gguf import tensors, tokenizer
from tgi_server.launcher.gguf.architectures import architectures
from tgi_server.launcher.gguf.reader import GgufFile, unused
from tgi_server.launcher.gguf.tensors import Target
from tgi_server.models import tensors as wanted
from tgi_server.models.families import families, read_spec
from tgi_server.models.files import ITEM_BITS, TensorInfo

_UNLIMITED = 1 << 30
FORMATS = {DType.float32: "F32", DType.float16: "F16", DType.bfloat16: "BF16"}


@dataclass(frozen=True, slots=True)
class Description:
    """`config` is config.json's content, `ids` those of generation_config.json."""

    config: dict[str, Any]
    ids: dict[str, Any]
    targets: Sequence[Target]
    max_length: int

    def tensors(self, dtype: DType) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Number format and shape of each tensor."""
        return {target.name: (FORMATS[dtype], target.shape) for target in self.targets}


def describe(file: GgufFile, dtype: DType) -> Description:
    """The model in a file.

    Raises:
        ModelError: its architecture, tokenizer, a value of its metadata or a tensor is not served or does not fit.
    """
    if file.architecture not in architectures():
        known = ", ".join(sorted(architectures()))
        raise ModelError(
            f"{file.path}: the architecture {file.architecture!r} is not supported in GGUF files (these are: {known}); "
            "give a directory with safetensors"
        )
    model = architectures()[file.architecture](file)
    if strange := unused(file):
        listed = ", ".join(f"{key}={value!r:.40}" for key, value in strange.items())
        raise ModelError(f"{file.path}: metadata that {file.architecture} is not served with: {listed}")
    tokenizer.check(file, model.config["vocab_size"])
    ids = tokenizer.special_ids(file)
    none = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"))  # or the defaults of one model would apply
    config = {"architectures": [model.name], **model.config, **none, **ids, "dtype": dtype.value}
    longest = file.whole(Keys.LLM.CONTEXT_LENGTH, _UNLIMITED)
    described = Description(config, ids, tensors.targets(file, model), longest)
    _check_family(file.path, described, dtype)
    return described


def _check_family(path: Path, described: Description, dtype: DType) -> None:
    """The tensors are those that the family wants, where a family of ours serves the model."""
    if described.config["model_type"] not in families():
        return
    infos = {
        name: TensorInfo(path, code, shape, 0, ITEM_BITS[code])
        for name, (code, shape) in described.tensors(dtype).items()
    }
    with TemporaryDirectory() as place:
        write(described, Path(place))
        try:
            wanted.check(read_spec(Path(place)), infos)
        except ModelError as error:
            raise ModelError(f"{path}: {str(error).replace(f'{place}/config.json: ', '')}") from None


def main(source: Path, directory: Path, dtype: DType, report: job.Report) -> str:
    """Write what can be said of the model without its weights; return its tensors as JSON."""
    report(f"Reading {source.name}", 0.0)
    described = describe(GgufFile(source), dtype)
    write(described, directory)
    return json.dumps(described.tensors(dtype))


def write(described: Description, directory: Path) -> None:
    """config.json and generation_config.json."""
    for name, content in (("config.json", described.config), ("generation_config.json", described.ids)):
        (directory / name).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    job.perform(lambda report: main(Path(sys.argv[1]), Path(sys.argv[2]), DType(sys.argv[3]), report))

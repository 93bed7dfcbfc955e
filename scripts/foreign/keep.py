"""Copies the checkpoints that were made beside the tests, with what transformers says in float32 of the weights they
stand for, as the tool that wrote a checkpoint reads it itself."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

from common import DENSE, fresh
from safetensors.torch import load_file

from tests.quantised import REFERENCE, expected, store

KEPT = ("config.json", "quantize_config.json", "*.safetensors")


def keep(made: Path, place: Path) -> None:
    """One checkpoint."""
    fresh(place).mkdir(parents=True)
    for path in (path for pattern in KEPT for path in made.glob(pattern)):
        shutil.copyfile(path, place / path.name)
    settings = json.loads((made / "config.json").read_text())["quantization_config"]
    threshold = settings["llm_int8_threshold"] if settings.get("load_in_8bit") else None
    dense = load_file(made.parent / f"{made.name}.{DENSE}")
    store(expected(made, dense, threshold), place / REFERENCE)


if __name__ == "__main__":
    for dense in sorted(Path(sys.argv[1]).glob(f"*.{DENSE}")):
        made = dense.with_name(dense.name.removesuffix(f".{DENSE}"))
        keep(made, Path(sys.argv[2]) / made.name)

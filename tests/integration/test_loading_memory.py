"""How much memory loading takes at its peak, measured from outside: in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from math import prod
from pathlib import Path

import pytest

from tests.models import CONFIG
from tgi_server.launcher import safetensors_writer
from tgi_server.models.families import read_spec

SHAPE = {
    "hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 32, "num_key_value_heads": 8,
    "num_hidden_layers": 8, "vocab_size": 40000,
}  # fmt: skip
MOST = {None: 1.2, "eetq": 1.2, "bitsandbytes-nf4": 1.7}
"""Times the weights as they are kept. Of 4 bits it is what the allocator keeps of one layer at a time that shows; as
floats they would be 2.2."""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """330 MB of bfloat16 zeros, of which 80 MB are vectors that embed tokens and score them."""
    directory = tmp_path_factory.mktemp("zeros")
    (directory / "config.json").write_text(json.dumps(CONFIG | SHAPE))
    spec = read_spec(directory)
    tensors = {spec.prefixes[0] + name: ("BF16", shape) for name, shape in spec.tensors()}
    file = directory / "model.safetensors"
    safetensors_writer.write(file, tensors, [])
    with file.open("r+b") as opened:  # zeros that take no room on the disk
        opened.truncate(file.stat().st_size + sum(2 * prod(shape) for _, shape in tensors.values()))
    return directory


@pytest.mark.parametrize("method", MOST)
def test_the_peak(checkpoint: Path, method: str | None) -> None:
    options = [] if method is None else ["--quantize", method]
    command = [sys.executable, "-m", "scripts.measure_loading", str(checkpoint), "--once", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    told = json.loads(done.stdout)
    assert 0.95 * told["weights"] < told["after"] <= told["peak"] < MOST[method] * told["weights"]

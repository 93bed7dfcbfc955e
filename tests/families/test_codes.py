"""Whole models of 4-bit codes through the Triton kernels, in their interpreter."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.families.harness import TOLERANCE, Generated, Reference, generate, interpreted_triton, quantise
from tests.families.test_mixtral import TestMixtral as _Mixtral  # not collected again
from tests.models import needs, write_llama
from tgi_server.models.families import read_spec
from tgi_server.quantize.base import Activations, QuantizeMethod
from tgi_server.quantize.gptq import Gptq

PROMPTS = [[7, 3, 9], [8]]


def interpreted(directory: Path, monkeypatch: pytest.MonkeyPatch, quantize: QuantizeMethod | None = None) -> Generated:
    """From here on in this test the table takes Triton's rows."""
    with interpreted_triton(monkeypatch):
        return generate(directory, PROMPTS, needs(), recorded=False, new_tokens=2, quantize=quantize)


def test_layers_and_experts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With act-order."""
    _Mixtral.save(tmp_path)
    quantise(tmp_path, read_spec(tmp_path), tmp_path)
    expected = generate(tmp_path / "floats", PROMPTS, needs(), new_tokens=2)
    Reference().compare(interpreted(tmp_path / "codes", monkeypatch), expected)


def test_inputs_of_8_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A last bit of an input may round it to another step."""
    write_llama(tmp_path)
    quantise(tmp_path, read_spec(tmp_path), tmp_path)
    quantize = Gptq(activations=Activations.int8)
    _, right = generate(tmp_path / "codes", PROMPTS, needs(plain=True), new_tokens=2, quantize=quantize)
    _, got = interpreted(tmp_path / "codes", monkeypatch, quantize)
    for mine, theirs in zip(got, right, strict=True):
        assert (mine[0] - theirs[0]).abs().max() <= 100 * TOLERANCE * theirs[0].abs().max()

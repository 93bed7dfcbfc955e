"""Every architecture: a tiny random model of transformers, written as llama.cpp would, is the same model again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import MODEL_ARCH, MODEL_ARCH_NAMES, GGMLQuantizationType
from safetensors.numpy import load_file
from transformers import AutoModelForCausalLM

from tests.families.harness import TOLERANCE, generate
from tests.gguf_models import ORIGINALS, VOCABULARY, Array
from tests.models import needs
from tgi_server.config.schema import DType
from tgi_server.launcher.gguf.architectures import architectures
from tgi_server.launcher.gguf.convert import convert
from tgi_server.models.families import families, read_spec
from tgi_server.models.tensors import found


def ignore(stage: str, fraction: float) -> None:
    pass


@pytest.mark.parametrize("name", ORIGINALS)
def test_a_model_comes_out_as_it_went_in(name: str, tmp_path: Path) -> None:
    original = ORIGINALS[name]
    model = original.make()
    source = original.write(tmp_path / "tiny.gguf", model)
    directory = tmp_path / "converted"
    directory.mkdir()
    convert(source, directory, DType.float32, ignore)

    before, after = load_file(tmp_path / "tiny" / "model.safetensors"), load_file(directory / "model.safetensors")
    for tensor, values in after.items():
        right = before[found(tensor, ("transformer.",), before) or tensor]
        assert np.allclose(values, right, rtol=0, atol=1e-6), tensor
    prompt = [int(id) for id in torch.randint(2, VOCABULARY, (37,), generator=torch.Generator().manual_seed(1))]
    with torch.inference_mode():
        right = model(torch.tensor([prompt]), use_cache=False).logits[0]
        again = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, attn_implementation="eager")
        assert (again(torch.tensor([prompt]), use_cache=False).logits[0] - right).abs().max() <= 1e-5
    if again.config.model_type in families():
        _, scores = generate(directory, [prompt], needs(), recorded=False, new_tokens=1)
        assert (scores[0][0] - right[-1]).abs().max() <= TOLERANCE * right[-1].abs().max()

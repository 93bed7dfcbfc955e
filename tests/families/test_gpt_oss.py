from __future__ import annotations

import json
from bisect import bisect_left
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.families.harness import FamilyTests, generate
from tests.models import needs
from tgi_server.config.schema import DType, ServerConfig
from tgi_server.errors import ConfigError, ModelError
from tgi_server.models import tensors
from tgi_server.models.check import check_memory
from tgi_server.models.families import read_spec
from tgi_server.models.files import headers
from tgi_server.quantize.none import NoQuantize

CODES = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]


class TestGptOss(FamilyTests):
    """Gates that the limit binds, as random activations are small."""

    config = "GptOssConfig"
    interpreted_tokens = 2
    numbers: ClassVar[dict[str, Any]] = {
        "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 32, "max_position_embeddings": 128, "num_local_experts": 6,
        "num_experts_per_tok": 3, "sliding_window": 9, "swiglu_limit": 1.5,
        "rope_parameters": {
            "rope_type": "yarn", "rope_theta": 150000.0, "factor": 4.0, "original_max_position_embeddings": 32,
            "beta_fast": 32.0, "beta_slow": 1.0, "truncate": False,
        },
    }  # fmt: skip

    @classmethod
    def make(cls) -> Any:
        model = super().make()
        for name, parameter in model.named_parameters():
            if "_proj_bias" in name:
                torch.nn.init.normal_(parameter, 0.0, 0.3)
        return model

    def test_four_bit_experts(self, directory: Path, prompts: list[list[int]], tmp_path: Path) -> None:
        """As they are published, and the same widened by hand; also where a rank's part ends within a block."""
        small, wide = rounded(directory, tmp_path)
        expected = generate(wide, prompts, needs())
        for world in (1, 2):
            self.compare(generate(small, prompts, needs(), world), expected)
        assert least_memory(small) == least_memory(wide)

    def test_other_quantised_checkpoints_are_refused(self, directory: Path, tmp_path: Path) -> None:
        entries = json.loads((directory / "config.json").read_text())
        entries["quantization_config"] = {"quant_method": "gptq"}
        (tmp_path / "config.json").write_text(json.dumps(entries))
        with pytest.raises(ModelError, match=r"quantization_config.quant_method='gptq' \(served: mxfp4, or none\)"):
            read_spec(tmp_path)

    def test_damaged_experts_are_named(self, directory: Path, tmp_path: Path) -> None:
        small, _ = rounded(directory, tmp_path)
        content = load_file(small / "model.safetensors")
        content["model.layers.1.mlp.experts.down_proj_scales"] = torch.zeros(6, 64, 3)
        del content["model.layers.0.mlp.experts.gate_up_proj_blocks"]
        content["model.layers.0.mlp.experts.down_proj_bias"] = torch.zeros(5, 64)
        save_file(content, small / "model.safetensors")
        with pytest.raises(ModelError) as error:
            tensors.check(read_spec(small), headers(small))
        assert "tensor model.layers.0.mlp.experts.gate_up_proj_blocks is missing" in str(error.value)
        assert "down_proj_bias has the shape [5, 64], [6, 64] was expected" in str(error.value)
        assert "down_proj_scales is of the type F32; U8 are served" in str(error.value)


def rounded(directory: Path, to: Path) -> tuple[Path, Path]:
    """The checkpoint with random experts in four bits, and one with the numbers that they stand for."""
    content, wide = load_file(directory / "model.safetensors"), {}
    generator = torch.Generator().manual_seed(0)
    for name in [name for name in content if name.endswith(("gate_up_proj", "down_proj"))]:
        count, inputs, outputs = content.pop(name).shape
        codes = torch.randint(0, 16, (count, outputs, inputs), generator=generator)
        scales = torch.randint(123, 126, (count, outputs, inputs // 32), generator=generator)
        signs = torch.where(codes < 8, 1.0, -1.0)
        powers = (2.0 ** (scales - 127.0)).repeat_interleave(32, dim=2)
        wide[name] = (torch.tensor(CODES)[codes % 8] * signs * powers).transpose(1, 2).contiguous()
        pairs = codes.view(count, outputs, inputs // 32, 16, 2)
        content[f"{name}_blocks"] = (pairs[..., 0] + 16 * pairs[..., 1]).to(torch.uint8)
        content[f"{name}_scales"] = scales.to(torch.uint8)
    entries = json.loads((directory / "config.json").read_text())
    both = to / "small", to / "wide"
    for path, has, more in zip(both, (content, {**content, **wide}), ("mxfp4", None), strict=True):
        path.mkdir()
        kept = {n: t for n, t in has.items() if more or not n.endswith(("_blocks", "_scales"))}
        save_file(kept, path / "model.safetensors")
        quantised = (
            {"quantization_config": {"quant_method": more, "modules_to_not_convert": ["lm_head"]}} if more else {}
        )
        (path / "config.json").write_text(json.dumps(entries | quantised))
    return both


def least_memory(directory: Path) -> int:
    """Bytes from which on a checkpoint is said to fit."""
    spec, options, files = read_spec(directory), ServerConfig(max_total_tokens=64), headers(directory)

    def fits(free: int) -> bool:
        try:
            check_memory(spec, options, files, DType.float32, NoQuantize(), free)
        except ConfigError:
            return False
        return True

    return bisect_left(range(10**8), True, key=fits)

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.families.harness import FamilyTests, generate, quantise
from tests.models import needs
from tgi_server.errors import ModelError
from tgi_server.models.families import read_spec


class TestMixtral(FamilyTests):
    config = "MixtralConfig"
    adapted: ClassVar[list[str]] = ["q_proj", "k_proj", "v_proj", "o_proj"]
    interpreted_tokens = 2
    numbers: ClassVar[dict[str, Any]] = {
        "hidden_size": 64, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 128, "num_local_experts": 5, "num_experts_per_tok": 2,
        "sliding_window": 20,
    }  # fmt: skip

    def test_adapter_of_single_experts(self, directory: Path, prompts: list[list[int]], tmp_path: Path) -> None:
        """As those were trained for which each expert's layers were modules of their own."""
        adapter, merged = tmp_path / "adapter", tmp_path / "merged"
        adapter.mkdir()
        merged.mkdir()
        content, own = load_file(directory / "model.safetensors"), dict[str, torch.Tensor]()
        for expert in range(5):
            module = f"model.layers.1.block_sparse_moe.experts.{expert}.w2"
            down, up = torch.randn(2, 48), torch.randn(64, 2)
            own |= {f"base_model.model.{module}.lora_{n}.weight": x for n, x in (("A", down), ("B", up))}
            content[f"{module}.weight"] += up @ down * (8 / 2)
        save_file(own, adapter / "adapter_model.safetensors")
        settings = {
            "peft_type": "LORA",
            "base_model_name_or_path": str(directory),
            "r": 2,
            "lora_alpha": 8,
            "target_modules": ["w2"],
        }
        (adapter / "adapter_config.json").write_text(json.dumps(settings))
        save_file(content, merged / "model.safetensors")
        (merged / "config.json").write_text((directory / "config.json").read_text())
        expected = generate(merged, prompts, needs(), new_tokens=3)
        for world in (1, 2):
            self.compare(generate(directory, prompts, needs(), world, new_tokens=3, adapter=adapter), expected)
        assert expected[0] != generate(directory, prompts, needs(), new_tokens=3)[0]

    def test_an_expert_that_is_kept_in_another_way_is_named(self, directory: Path, tmp_path: Path) -> None:
        quantise(directory, read_spec(directory), tmp_path)
        path, module = tmp_path / "codes" / "model.safetensors", "model.layers.1.block_sparse_moe.experts.3.w2"
        tensors = {name: own for name, own in load_file(path).items() if not name.startswith(f"{module}.")}
        save_file(tensors | {f"{module}.weight": torch.randn(64, 48)}, path)
        with pytest.raises(ModelError, match=rf"^layer {module}: its weights are Dense, those of the first .* Grouped"):
            generate(tmp_path / "codes", [[1]], needs(), new_tokens=1)

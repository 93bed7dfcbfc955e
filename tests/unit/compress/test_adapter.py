"""An adapter is merged into what is quantised."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers

from tests.unit.compress.random_models import write
from tgi_server.compress import worker
from tgi_server.compress.options import QuantizeOptions
from tgi_server.compress.task import Task, as_json

LAYERS = [f"model.layers.{number}.self_attn.q_proj" for number in range(2)]


def made(directory: Path, model: Path, adapter: Path | None, text: Path) -> dict[str, torch.Tensor]:
    options = QuantizeOptions(out=str(directory), group_size=32, calibration=str(text), samples=2, sample_tokens=16)
    threads = torch.get_num_threads()
    place = None if adapter is None else str(adapter)
    worker.work(Task(str(model), place, str(directory), as_json(options), {}), lambda stage, fraction: None)
    torch.set_num_threads(threads)
    tensors: dict[str, torch.Tensor] = load_file(directory / "model.safetensors")
    return tensors


def test_merged(tmp_path: Path) -> None:
    base, dense, adapter, text = (tmp_path / name for name in ("base", "dense", "adapter", "text.txt"))
    text.write_text(" ".join(f"w{n * n % 47}" for n in range(40)))
    core = Tokenizer(models.WordLevel({f"w{n}": n for n in range(50)}, "w0"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    for directory in (base, dense, adapter):
        directory.mkdir()
        core.save(str(directory / "tokenizer.json"))
    write(base, "llama")
    write(dense, "llama")
    down, up = torch.randn(2, 64), torch.randn(64, 2)
    tensors = load_file(dense / "model.safetensors")
    save_file(
        {n: t + up @ down * 2 if n[:-7] in LAYERS else t for n, t in tensors.items()}, dense / "model.safetensors"
    )
    lora = {
        f"base_model.model.{layer}.lora_{kind}.weight": t for layer in LAYERS for kind, t in (("A", down), ("B", up))
    }
    save_file({name: tensor.clone() for name, tensor in lora.items()}, adapter / "adapter_model.safetensors")
    settings = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"], "task_type": "CAUSAL_LM"}
    (adapter / "adapter_config.json").write_text(json.dumps({**settings, "base_model_name_or_path": str(base)}))
    plain = made(tmp_path / "plain", base, None, text)
    found, expected = made(tmp_path / "found", base, adapter, text), made(tmp_path / "expected", dense, None, text)
    for layer in LAYERS:
        assert (found[f"{layer}.qweight"] != expected[f"{layer}.qweight"]).float().mean() < 0.02
        assert (found[f"{layer}.qweight"] != plain[f"{layer}.qweight"]).float().mean() > 0.5

"""Models of no family, served by processes of their own; code that comes with a checkpoint, with trust and without."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration import reference
from tests.integration.server import free_port
from tests.integration.test_default_model import serves, write

SMALL = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "initializer_range": 0.2, "max_position_embeddings": 4096, "eos_token_id": 0,
    "bos_token_id": 0, "pad_token_id": 0,
}  # fmt: skip
CONFIGURATION = """
from transformers import LlamaConfig

class OddConfig(LlamaConfig):
    model_type = "odd"
"""
MODELING = """
from transformers import LlamaForCausalLM
from .configuration_odd import OddConfig

class OddForCausalLM(LlamaForCausalLM):
    config_class = OddConfig

    def forward(self, *args, **kwargs):
        outputs = super().forward(*args, **kwargs)
        outputs.logits = outputs.logits * 0.5
        return outputs
"""
CLASSES = {"AutoConfig": "configuration_odd.OddConfig", "AutoModelForCausalLM": "modeling_odd.OddForCausalLM"}


def test_a_model_of_no_family_is_served(tmp_path: Path) -> None:
    from transformers import Cohere2Config

    kinds = ["sliding_attention", "full_attention"]
    config = Cohere2Config(vocab_size=len(reference.tokenizer()), sliding_window=24, layer_types=kinds, **SMALL)
    model = write(tmp_path, config)
    log = serves(tmp_path, model, "batching=chunked", "prefill_chunk_tokens=16", "prefix_caching=true")
    assert "Cohere2ForCausalLM of transformers" in log and "steps are not recorded" in log
    assert "memory: cache, window of 24 positions, 1 layers" in log


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama that calls itself something nobody knows, with code."""
    from transformers import LlamaConfig

    directory = tmp_path_factory.mktemp("odd")
    write(directory, LlamaConfig(vocab_size=len(reference.tokenizer()), **SMALL))
    config = json.loads((directory / "config.json").read_text())
    config |= {"model_type": "odd", "architectures": ["OddForCausalLM"], "auto_map": CLASSES}
    (directory / "config.json").write_text(json.dumps(config))
    (directory / "configuration_odd.py").write_text(CONFIGURATION)
    (directory / "modeling_odd.py").write_text(MODELING)
    return directory


def test_code_of_a_checkpoint_runs_where_it_is_trusted(
    odd: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import LlamaForCausalLM

    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path))
    model = LlamaForCausalLM.from_pretrained(odd, attn_implementation="eager").eval()
    log = serves(odd, model, "trust_remote_code=true")
    assert "OddForCausalLM of the checkpoint's own code" in log
    assert f"trust_remote_code is on for {odd}" in log


def refused(directory: Path, tmp_path: Path, *options: str) -> str:
    """The only line that a start ends with."""
    command = [
        sys.executable, "-m", "tgi_server", f"port={free_port()}", f"shard_uds_path={tmp_path}/shard",
        f"model_id={directory}", *options,
    ]  # fmt: skip
    environment = os.environ | {"HF_MODULES_CACHE": str(tmp_path)}
    result = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    return line


def test_code_of_a_checkpoint_does_not_run_otherwise(odd: Path, tmp_path: Path) -> None:
    line = refused(odd, tmp_path)
    assert line.startswith(f"Error: {odd}/config.json: model_type 'odd' is known neither here nor to transformers")
    assert line.endswith("it brings code of its own (auto_map), which runs with trust_remote_code=true only")
    assert not [*tmp_path.rglob("*.py")]


@pytest.mark.parametrize(("changes", "message"), [
    ({"auto_map": {**CLASSES, "AutoConfig": "org/other--a.B"}}, "AutoConfig from another repository, org/other"),
    ({"auto_map": {"AutoConfig": CLASSES["AutoConfig"]}}, "auto_map has no AutoModelForCausalLM"),
    ({"auto_map": {**CLASSES, "AutoModelForCausalLM": "modeling_odd.Missing"}}, "cannot be used: AttributeError"),
])  # fmt: skip
def test_code_that_cannot_be_had_is_refused(
    odd: Path, tmp_path: Path, changes: dict[str, object], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tgi_server.errors import ModelError
    from tgi_server.models.fallback.probe import describe

    for name in ("configuration_odd.py", "modeling_odd.py"):
        (tmp_path / name).write_text((odd / name).read_text())
    config = json.loads((odd / "config.json").read_text()) | changes
    (tmp_path / "config.json").write_text(json.dumps(config))
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    with pytest.raises(ModelError, match=message):
        describe(tmp_path, trust=True)


def test_code_that_ends_its_process_is_told(odd: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tgi_server.errors import ModelError
    from tgi_server.models.fallback.probe import describe

    (tmp_path / "config.json").write_text((odd / "config.json").read_text())
    (tmp_path / "configuration_odd.py").write_text((odd / "configuration_odd.py").read_text())
    (tmp_path / "modeling_odd.py").write_text("import sys\nsys.exit(4)\n")
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    with pytest.raises(ModelError, match=r"its own code ends the process that reads it \(exit status 4\)"):
        describe(tmp_path, trust=True)

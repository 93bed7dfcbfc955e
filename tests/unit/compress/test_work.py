"""The directory in which a checkpoint grows: whose it is, what of it is done, and how it becomes the checkpoint."""

from __future__ import annotations

import fcntl
import json
import resource
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.unit.compress.random_models import write
from tgi_server.compress import finish, work
from tgi_server.compress.options import Method, QuantizeOptions
from tgi_server.compress.work import Work
from tgi_server.errors import ModelError
from tgi_server.models.checkpoint import Checkpoint
from tgi_server.models.files import headers

JOB = {"method": "gptq", "bits": 4}


def test_a_block_is_done_when_its_file_is_there(tmp_path: Path) -> None:
    own = Work(tmp_path / "out")
    with own.held(JOB):
        with own.new_states(0, (2, 3, 4)) as states:
            states[:] = 1
        own.write_block(0, {"a": torch.ones(2, 2, dtype=torch.float16)})
        with own.new_states(1, (2, 3, 4)) as states:
            states[:] = own.states(0, (2, 3, 4)) + 1
        assert own.done(2) == 0
        own.finish_block(0)
    again = Work(tmp_path / "out")
    with again.held(JOB):
        assert again.done(2) == 1
        assert float(again.states(1, (2, 3, 4)).min()) == 2
        assert not (again.directory / "states-00000").exists()
        result = again.result()
        (result / "file").touch()
        again.finish(result)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["file"]
    assert not again.directory.exists()


def test_states_that_were_not_finished_do_not_count(tmp_path: Path) -> None:
    own = Work(tmp_path / "out")
    with own.held(JOB), pytest.raises(RuntimeError), own.new_states(0, (1, 1, 1)):
        raise RuntimeError
    assert not (own.directory / "states-00000").exists()


def test_of_work_that_failed_at_once_nothing_stays(tmp_path: Path) -> None:
    own = Work(tmp_path / "out")
    with pytest.raises(ModelError, match="too few"), own.held(JOB), own.new_states(0, (1, 1, 1)):
        raise ModelError("too few tokens")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_an_error_before_the_states_are_memory(tmp_path: Path) -> None:
    own, (soft, hard) = Work(tmp_path / "out"), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        with pytest.raises(ModelError, match=r"out\.partial: File too large"), own.held(JOB):
            with own.new_states(0, (2, 3, 4)) as states:
                states[:] = 1
            with own.new_states(1, (10, 1000, 1)):
                pytest.fail("there is no room for them")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (own.directory / "states-00000").exists()


def test_other_work_is_left_alone(tmp_path: Path) -> None:
    own = Work(tmp_path / "out")
    with own.held(JOB):
        pass
    with pytest.raises(ModelError, match=r"another job .bits=4.; go on with that"), own.held({**JOB, "bits": 3}):
        pass
    foreign = Work(tmp_path / "foreign")
    foreign.directory.mkdir()
    (foreign.directory / "precious").touch()
    with pytest.raises(ModelError, match="no work of this job"), foreign.held(JOB):
        pass
    assert (foreign.directory / "precious").exists()


def test_one_process_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work, "_PATIENCE", 0.0)
    own = Work(tmp_path / "out")
    own.directory.mkdir()
    with (own.directory / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(ModelError, match="another process"), own.held(JOB):
            pass


def test_large_checkpoints_are_several_files_with_an_index(tmp_path: Path) -> None:
    model, out = tmp_path / "model", tmp_path / "out"
    model.mkdir()
    out.mkdir()
    write(model, "llama", torch.bfloat16)
    files = Checkpoint(model)
    gone = {"model.layers.0.mlp.up_proj.weight"}
    made = finish.entries(files, files, [], gone, half=True)
    finish.write(out, made, limit=20_000)
    index = json.loads((out / "model.safetensors.index.json").read_text())
    before = load_file(model / "model.safetensors")
    assert set(index["weight_map"]) == set(before) - gone == set(headers(out))
    names = sorted(set(index["weight_map"].values()))
    assert len(names) > 3 and names[0] == f"model-00001-of-{len(names):05}.safetensors"
    for name, file in index["weight_map"].items():
        assert torch.equal(load_file(out / file)[name], before[name].half())
    sizes = [path.stat().st_size for path in out.glob("*.safetensors")]
    assert max(sizes) < 25_000 and index["metadata"]["total_size"] == sum(info.bytes for info in headers(out).values())


@pytest.mark.parametrize("method", Method)
def test_descriptions(tmp_path: Path, method: Method) -> None:
    model, out = tmp_path / "model", tmp_path / "out"
    model.mkdir()
    out.mkdir()
    (model / "config.json").write_text('{"model_type": "llama", "dtype": "bfloat16", "name": "é"}')
    (tmp_path / "tokenizer").write_text("{}")
    (model / "tokenizer.json").symlink_to(tmp_path / "tokenizer")
    options = QuantizeOptions(method=method, group_size=-1, act_order=False if method is Method.gptq else None)
    finish.describe(model, out, options, half=method is Method.awq)
    config = json.loads((out / "config.json").read_text())
    assert config["dtype"] == ("float16" if method is Method.awq else "bfloat16") and config["name"] == "é"
    assert not (out / "tokenizer.json").is_symlink() and (out / "tokenizer.json").read_text() == "{}"
    if method is Method.awq:
        assert json.loads((out / "quant_config.json").read_text()) == {
            "zero_point": True, "q_group_size": -1, "w_bit": 4, "version": "GEMM",
        }  # fmt: skip
    else:
        assert json.loads((out / "quantize_config.json").read_text()) == config["quantization_config"]
        assert config["quantization_config"]["desc_act"] is False

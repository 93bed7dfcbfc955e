"""What `--env` reads of the machine, on files like those of other machines."""

from __future__ import annotations

from pathlib import Path

from tgi_server.launcher import report


def test_processor_and_memory(tmp_path: Path) -> None:
    cpuinfo, meminfo = tmp_path / "cpuinfo", tmp_path / "proc/meminfo"
    meminfo.parent.mkdir()
    cpuinfo.write_text("processor\t: 0\nmodel name\t: Fast CPU\nflags\t\t: fpu avx2 amx_bf16 xyz\n")
    meminfo.write_text("MemTotal:       33554432 kB\nMemFree: 1 kB\nMemAvailable:   16777216 kB\n")
    name, flags = report._processor(cpuinfo)
    assert name.startswith("processor: Fast CPU, ") and flags == "processor can: avx2, amx_bf16"
    assert list(report._memory(tmp_path)) == ["memory: 16.0 GiB of 32.0 GiB available"]


def test_a_machine_that_tells_nothing(tmp_path: Path) -> None:
    assert list(report._processor(tmp_path / "none"))[1] == "processor can: nothing known"
    assert list(report._memory(tmp_path / "none")) == []
    assert report._driver(tmp_path / "none") == "none loaded"


def test_driver(tmp_path: Path) -> None:
    file = tmp_path / "version"
    file.write_text(
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.86.15  Release Build\nGCC version: x\n"
    )
    assert report._driver(file) == "570.86.15"


def test_programs_that_fail_or_are_not_there() -> None:
    assert report._output(["sh", "-c", "echo why >&2; exit 3"], "") == ["unknown: why"]
    (line,) = report._output(["/no/such/program"], "")
    assert line.startswith("unknown: ") and "/no/such/program" in line


def test_secrets_in_variables_are_masked() -> None:
    environ = {
        "HF_TOKEN": "s3cret", "HUGGING_FACE_HUB_TOKEN": "s3cret", "HF_ENDPOINT": "http://me:s3cret@hub",
        "CUDA_VISIBLE_DEVICES": "0,1", "HOME": "/root", "AWS_SECRET_ACCESS_KEY": "s3cret",
    }  # fmt: skip
    shown = list(report._variables(environ))
    assert "s3cret" not in str(shown)
    assert shown == [
        "CUDA_VISIBLE_DEVICES=0,1", "HF_ENDPOINT=http://***@hub", "HF_TOKEN=***", "HUGGING_FACE_HUB_TOKEN=***",
    ]  # fmt: skip

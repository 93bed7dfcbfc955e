"""Compiling: once, also by several processes at a time; a clear reason where it cannot work."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tgi_server.kernels.native import build
from tgi_server.kernels.native.build import cpu_info

ROOT = Path(__file__).parents[2]

TRY = """
import torch
from tgi_server.kernels.native import build
build.FLAGS[1] = "-O0"  # is compiled sooner
try:
    build.library()
    print("built")
except build.NativeError as error:
    print(error)
"""


def attempt(cache: Path, **env: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", TRY],
        env=os.environ | {"XDG_CACHE_HOME": str(cache)} | env,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_two_at_once_share_one_result_and_no_compiler_is_a_reason(tmp_path: Path) -> None:
    builders = [attempt(tmp_path), attempt(tmp_path)]
    without = attempt(tmp_path / "other", PATH="/nowhere")
    assert [b.communicate()[0].strip() for b in builders] == ["built", "built"]
    assert "no C++ compiler" in without.communicate()[0]
    built = list((tmp_path / "tgi_server" / "native").iterdir())
    assert len(built) == 1
    assert attempt(tmp_path, PATH="/nowhere").communicate()[0].strip() == "built"  # what is built needs no compiler
    built[0].write_bytes(built[0].read_bytes()[:3000])
    assert "no C++ compiler" in attempt(tmp_path, PATH="/nowhere").communicate()[0]  # damaged: not loaded


def test_each_version_of_a_compiler_builds_its_own(tmp_path: Path) -> None:
    """An older one may not know all of the processor."""
    compiler, real = tmp_path / "g++", shutil.which("g++") or shutil.which("c++")
    compiler.write_text(f'#!/bin/sh\n[ "$1" = --version ] && exec echo "g++ 99.1"\nexec {real} "$@"\n')
    compiler.chmod(0o755)
    built = tmp_path / "tgi_server" / "native"
    for path, count in (("", 1), (f"{tmp_path}:", 2), ("", 2), (f"{tmp_path}:", 2)):
        assert attempt(tmp_path, PATH=path + os.environ["PATH"]).communicate()[0].strip() == "built"
        assert len(list(built.iterdir())) == count
    assert attempt(tmp_path, PATH="/nowhere").communicate()[0].strip() == "built"


def test_a_compiler_that_says_nothing_is_a_reason(tmp_path: Path) -> None:
    compiler = tmp_path / "g++"
    compiler.write_text("#!/bin/sh\necho >&2\nexit 1\n")
    compiler.chmod(0o755)
    assert "does not say why" in attempt(tmp_path, PATH=f"{tmp_path}:/usr/bin:/bin").communicate()[0]


def test_a_compiler_that_fails_is_a_reason(tmp_path: Path) -> None:
    compiler = tmp_path / "g++"
    compiler.write_text("#!/bin/sh\necho unknown option >&2\nexit 1\n")
    compiler.chmod(0o755)
    output = attempt(tmp_path, PATH=f"{tmp_path}:/usr/bin:/bin").communicate()[0]
    assert "unknown option" in output


OLDER = """
import sys
import pytest
from tgi_server.kernels.native import build
build.FLAGS[1:3] = "-O1", f"-march={sys.argv[1]}"
sys.exit(pytest.main(["-q", "tests/unit/kernels/native", "tests/unit/kernels/attention"]))
"""


@pytest.mark.timeout(400)
@pytest.mark.parametrize(("march", "flag"), [("haswell", "avx2"), ("skylake-avx512", "avx512vl")])
def test_older_processors_compute_the_same(march: str, flag: str) -> None:
    """Without AVX512, and with AVX512 but without its bfloat16."""
    if not any(line.startswith("flags") and flag in line.split() for line in cpu_info()):
        pytest.skip(f"this processor has no {flag}")
    run = subprocess.run([sys.executable, "-c", OLDER, march], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout


def test_tile_registers_are_used_where_a_processor_has_them(tmp_path: Path) -> None:
    """Only compiled: what is built on them is tested with an emulation of them (tests/unit/kernels/native)."""
    flags = ["-march=sapphirerapids" if flag == "-march=native" else flag for flag in build.FLAGS]
    compiler = shutil.which("g++")
    if compiler is None or subprocess.run([compiler, "-march=sapphirerapids", "-E", "-"], input=b"").returncode:
        pytest.skip("no compiler that knows such a processor")
    for source in build.SOURCES:
        made = tmp_path / f"{source.stem}.s"
        subprocess.run([compiler, *flags, "-Werror", "-S", str(source), "-o", str(made)], check=True)
        assert ("tdpbf16ps" in made.read_text()) == (source.stem in ("linear", "coded"))


def test_a_failing_compiler_is_asked_once(tmp_path: Path) -> None:
    compiler = tmp_path / "g++"
    compiler.write_text(f"#!/bin/sh\necho asked >> {tmp_path}/log\nexit 1\n")
    compiler.chmod(0o755)
    run = subprocess.run(
        [sys.executable, "-c", TRY + TRY],
        env=os.environ | {"XDG_CACHE_HOME": str(tmp_path), "PATH": f"{tmp_path}:/usr/bin:/bin"},
        capture_output=True, text=True,
    )  # fmt: skip
    assert run.stdout.count("compiling the kernels failed") == 2
    asked = (tmp_path / "log").read_text().count("asked")
    assert asked <= 1 + len(list((ROOT / "tgi_server/kernels/native").glob("*.cpp")))  # 1 for its version

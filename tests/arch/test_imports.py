"""The import rules that hold at run time."""

from __future__ import annotations

import subprocess
import sys

import pytest

WITHOUT_TORCH = [
    "tgi_server.launcher.main", "tgi_server.router.main", "tgi_server.router.app", "tgi_server.engine.engine",
    "tgi_server.batching.scheduler", "tgi_server.rpc.client", "tgi_server.rpc.server", "tgi_server.models.spec",
    "tgi_server.models.files", "tgi_server.quantize.none", "tgi_server.quantize.eetq", "tgi_server.kernels.choice",
    "tgi_server.quantize.gptq", "tgi_server.quantize.awq",
    "tgi_server.jobs.bench", "tgi_server.bench.main", "tgi_server.host", "tgi_server.models.check",
    "tgi_server.launcher.examine",
    "tgi_server.compress.start", "tgi_server.speculate.ngram", "tgi_server.speculate.suffix",
    "tgi_server.watermark", "tgi_server.jobs.ray", "tgi_server.replicas.start", "tgi_server.replicas.affinity",
]  # fmt: skip


@pytest.mark.parametrize("module", WITHOUT_TORCH)
def test_module_loads_without_torch_and_transformers(module: str) -> None:
    code = f"import sys, {module}; sys.exit(bool({{'torch', 'transformers'}} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_help_is_there_without_numpy() -> None:
    code = "import sys; from tgi_server.launcher.main import main; main(['--help']); sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL).returncode == 0


def test_the_scheduler_needs_only_the_standard_library() -> None:
    code = (
        "import sys, tgi_server.batching.scheduler\n"
        "foreign = {m.split('.')[0] for m in sys.modules} - set(sys.stdlib_module_names) - {'tgi_server'}\n"
        "foreign = {m for m in foreign if not m.startswith('_') and m not in sys.builtin_module_names}\n"
        "sys.exit(str(foreign) if foreign else 0)"
    )
    result = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr

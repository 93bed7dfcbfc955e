"""Help, documentation and the list of changed options are made from the schema."""

from __future__ import annotations

import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest

import tgi_server
from tgi_server.config import describe, files, options, parts, reference, usage
from tgi_server.config.schema import ServerConfig, documented_options, without_variable

ROOT = Path(tgi_server.__file__).parent.parent
OPTIONS = [
    "model_id", "revision", "trust_remote_code", "dtype", "tokenizer_config_path", "huggingface_hub_cache",
    "weights_cache_override", "conversion_cache", "sharded", "num_shard", "shard_uds_path", "speculate",
    "enable_cuda_graphs", "disable_custom_kernels", "cuda_memory_fraction", "preallocate_cache", "master_addr",
    "master_port", "num_nodes", "node_rank", "node_port", "node_token", "node_token_file", "node_timeout",
    "node_start_timeout", "max_concurrent_requests",
    "max_input_length", "max_total_tokens", "waiting_served_ratio", "max_batch_prefill_tokens",
    "max_batch_total_tokens", "max_waiting_tokens", "max_batch_size", "prefill_chunk_tokens", "prefix_caching",
    "validation_workers", "max_best_of", "max_stop_sequences", "max_top_n_tokens", "payload_limit",
    "reasoning",
    "messages_api_enabled", "watermark_gamma", "watermark_delta", "rope_scaling", "rope_factor", "hostname", "port",
    "cors_allow_origin", "api_key", "api_key_file", "ngrok", "ngrok_authtoken", "ngrok_edge", "shutdown_timeout",
    "receive_timeout", "send_timeout", "max_client_connections",
    "json_output", "otlp_endpoint", "otlp_service_name", "log_level", "log_levels",
    "record_traffic", "compute_type",
]  # fmt: skip
"""Frozen: an option that comes or goes is a change of the interface."""
FIELDS = {
    "attention": ["library"],
    "quantize": ["activations", "bits", "group_size", "threshold", "block", "compress_statistics"],
    "speculation": ["places", "longest"],
    "job": [
        "target", "clients", "request_rate", "traffic", "traffic_speed", "requests", "duration", "warmup", "time_limit",
        "prompts", "workload",
        "prompt_tokens", "new_tokens", "temperature", "top_k", "top_p", "typical_p", "min_p", "repetition_penalty",
        "frequency_penalty", "presence_penalty", "watermark", "response_format", "sampling_seed", "seed", "output",
        "objective", "slo_ttft_p95_ms", "slo_itl_p95_ms", "slo_whole_p95_ms", "budget", "candidates", "record",
        "costs", "cost_seconds", "replicas", "per_replica", "routing", "prefix_margin", "front_routers",
        "max_replicas", "min_replicas", "target_requests", "upscale_delay", "downscale_delay",
        "replica_cpus", "replica_gpus", "ray_address", "prefix_routing",
        "out", "method", "bits", "group_size", "act_order", "symmetric", "damping", "calibration", "samples",
        "sample_tokens", "repeats", "simulate",
    ],
}  # fmt: skip
"""Frozen too: the fields that parts have whatever model is served."""


def test_the_options_are_these() -> None:
    assert [field.name for field in documented_options()] == OPTIONS
    assert set(options.NAMES) == {*OPTIONS, "quantize", "attention", "speculation", "runner", "router", "job"}
    assert {part: list(parts.known(part)) for part in FIELDS} == FIELDS


def test_the_documentation_is_fresh() -> None:
    assert (ROOT / "docs/options.md").read_text() == reference.markdown(), "run scripts/write-options"


@pytest.mark.parametrize("long", [True, False])
def test_help_names_every_option_and_choice(long: bool) -> None:
    text = usage.text(long)
    for field in documented_options():
        assert f"--{field.name.replace('_', '-')}" in text
        variable = f"[env: {field.name.upper()}]" in " ".join(text.split())
        assert variable == (long and field.name not in without_variable())
    for name in FIELDS["job"]:
        assert re.search(rf"^      --{name.replace('_', '-')}\s", text, re.MULTILINE)
        assert f"[env: {name.upper()}]" not in text
    assert "      attention.library=flash_attn|triton|native|torch" in text
    assert "-p, --port N" in text
    assert "[default: bigscience/bloom-560m]" in " ".join(text.split())
    for group, names in files.groups().items():
        assert f"--{group} {'|'.join(names)}" in text
    assert max(map(len, text.splitlines())) <= 130


def test_what_a_job_inherits_is_told_once() -> None:
    sections = {title: [entry.flag for entry in entries] for title, entries in usage.groups()}
    (flags,) = (flags for title, flags in sections.items() if "(job=tune, and what job=bench has" in title)
    assert "--budget X" in flags and not any(flag.startswith("--clients") for flag in flags)
    assert sum(flag.startswith("--clients") for flags in sections.values() for flag in flags) == 1
    assert sum(flag.startswith("quantize.activations") for flags in sections.values() for flag in flags) > 1


def test_help_tells_what_is_allowed() -> None:
    text = " ".join(usage.text(long=True).split())
    assert "[whole number, 0 to 65535] [default: 3000] [env: PORT]" in text
    assert "--rope-scaling linear|dynamic" in text


def test_the_summary_has_one_line_an_option() -> None:
    lines = usage.text(long=False).splitlines()
    assert sum("--max-input-length N " in line and "Longest prompt" in line for line in lines) == 1
    assert len(lines) < len(usage.text(long=True).splitlines()) / 2


def processor_seconds_of_children() -> float:
    """Of those that have ended: that others keep the machine busy does not count."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.mark.alone
@pytest.mark.parametrize("argv", [["--help"], ["-h"], ["--cfg", "job", "deployment=laptop"]])
def test_quick_and_without_torch(argv: list[str]) -> None:
    code = (
        "import sys\n"
        "from tgi_server.launcher.main import main\n"
        "status = main(sys.argv[1:])\n"
        "sys.exit(status or ', '.join({'torch', 'transformers'} & set(sys.modules)) or 0)"
    )
    before = processor_seconds_of_children()
    done = subprocess.run([sys.executable, "-c", code, *argv], capture_output=True, text=True)
    assert processor_seconds_of_children() - before < 2.5  # half of that where nothing else runs
    assert done.returncode == 0, done.stderr


def test_changed_options_tell_their_origin_and_no_secret() -> None:
    config = ServerConfig(port=80, ngrok_authtoken="s3cret", otlp_endpoint="http://me:s3cret@host:4317")
    origins = {"port": "--port", "otlp_endpoint": "command line", "ngrok_authtoken": "--ngrok-authtoken"}
    assert describe.changed(config, origins) == [
        "port=80 (--port)",
        "ngrok_authtoken=*** (--ngrok-authtoken)",
        "otlp_endpoint=http://***@host:4317 (command line)",
    ]


def test_every_option_is_described() -> None:
    for hint in options.TYPES.values():
        assert describe.expectation(hint)

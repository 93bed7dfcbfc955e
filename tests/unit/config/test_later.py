"""Names of later versions: each is a synonym, changes nothing with a line, or is refused with what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

import tgi_server
from tests.unit.config.test_cli import compose, refusal
from tgi_server.config import cli, files, later, later_page, load, options, parts
from tgi_server.config.later import Means, Nothing, Refused, Row, Works
from tgi_server.config.schema import ServerConfig
from tgi_server.errors import UsageError

PAGE = [
    "model_id", "revision", "validation_workers", "sharded", "num_shard", "quantize", "speculate", "dtype",
    "kv_cache_dtype", "trust_remote_code", "max_concurrent_requests", "max_best_of", "max_stop_sequences",
    "max_top_n_tokens", "max_input_tokens", "max_input_length", "max_total_tokens", "waiting_served_ratio",
    "max_batch_prefill_tokens", "max_batch_total_tokens", "max_waiting_tokens", "max_batch_size", "cuda_graphs",
    "enable_cuda_graphs", "hostname", "port", "prometheus_port", "shard_uds_path", "master_addr", "master_port",
    "huggingface_hub_cache", "weights_cache_override", "disable_custom_kernels", "cuda_memory_fraction",
    "rope_scaling", "rope_factor", "json_output", "otlp_endpoint", "otlp_service_name", "cors_allow_origin",
    "watermark_gamma", "watermark_delta", "ngrok", "ngrok_authtoken", "ngrok_edge", "tokenizer_config_path",
    "disable_grammar_support", "max_client_batch_size", "lora_adapters", "usage_stats", "disable_usage_stats",
    "disable_crash_reports", "payload_limit", "enable_prefill_logprobs", "graceful_termination_timeout",
    "messages_api_enabled", "max_image_fetch_size",
]  # fmt: skip
"""The options of launchers from 1.0 to 3.3, frozen: not one of them is unknown."""
VARIABLES = [
    "ATTENTION", "PREFIX_CACHING", "USE_PREFIX_CACHING", "PREFILL_CHUNKING", "LOG_LEVEL", "HF_TOKEN",
    "HUGGING_FACE_HUB_TOKEN", "HF_API_TOKEN", "HF_HUB_OFFLINE", "HF_HUB_ENABLE_HF_TRANSFER", "HF_HOME", "HF_MODEL_ID",
    "SM_NUM_GPUS", "CUDA_VISIBLE_DEVICES",
]  # fmt: skip
ROWS = list(later.rows().values())


def names(row: Row) -> list[object]:
    return [row.otherwise, *row.values.values()]


def test_every_option_of_the_other_launchers_is_known() -> None:
    known = {*options.TYPES, *files.groups()}
    assert {name for name in PAGE if name not in known} == set(later.flags())
    variables = {name.upper() for name in [*known, *later.rows()]}
    assert set(VARIABLES) <= variables


def test_no_row_hides_anything_of_ours() -> None:
    known = {*options.TYPES, *files.groups(), *parts.known("job")}
    for row in ROWS:
        assert (row.name in known) == (row.otherwise is None), row.name
        for choice in files.groups().get(row.name, []):
            assert row.outcomes(choice) is None, choice


def test_synonyms_mean_options_that_are_there() -> None:
    meant = {outcome.option for row in ROWS for outcome in names(row) if isinstance(outcome, Means)}
    assert meant <= set(options.TYPES)
    assert {"max_input_length", "shutdown_timeout", "enable_cuda_graphs", "prefix_caching", "port"} <= meant


def test_each_row_says_something() -> None:
    for row in ROWS:
        assert names(row) != [None] or row.read
        for outcome in names(row):
            match outcome:
                case Works(words) | Nothing(words) | Refused(words):
                    assert len(words.split()) > 1 and words[-1] != "."


@pytest.mark.parametrize("argv", [
    ["--max-input-tokens", "9"], ["--max-input-tokens=9"], ["max_input_tokens=9"],
])  # fmt: skip
def test_a_synonym_in_all_spellings(argv: list[str]) -> None:
    assert cli.parse(argv, {}).overrides == ["max_input_length='9'"]
    assert cli.parse([], {"MAX_INPUT_TOKENS": "9"}).overrides == ["max_input_length='9'"]
    assert cli.parse(argv, {}).warnings == []


@pytest.mark.parametrize("argv", [["-g", "9"], ["-g9"], ["-g=9"], ["--graceful-termination-timeout", "9"]])
def test_the_short_flag_of_the_grace_period(argv: list[str]) -> None:
    assert compose(*argv).shutdown_timeout == 9.0
    assert "shutdown_timeout=x: expected a number (--graceful-termination-timeout)" in refusal("-g", "x")


def test_the_stronger_place_wins_whatever_the_name() -> None:
    assert compose("--max-input-length", "5", MAX_INPUT_TOKENS="6").max_input_length == 5
    assert compose("--max-input-tokens", "5", MAX_INPUT_LENGTH="6").max_input_length == 5
    assert compose("max_input_length=5", "--max-input-tokens", "6").max_input_length == 6
    assert compose("prefill_chunk_tokens=64", PREFILL_CHUNKING="true").prefill_chunk_tokens == 64
    assert compose("deployment=laptop", PREFILL_CHUNKING="true").prefill_chunk_tokens == 256


def test_two_names_of_one_option_agree() -> None:
    assert compose("--max-input-tokens", "5", "--max-input-length", "5").max_input_length == 5
    assert compose(MAX_INPUT_TOKENS="5", MAX_INPUT_LENGTH="5").max_input_length == 5
    for argv in (
        ["--max-input-tokens", "5", "--max-input-length", "6"],
        ["--max-input-length=6", "--max-input-tokens=5"],
    ):
        assert "--max-input-length" in refusal(*argv) and "say different things" in refusal(*argv)
    assert "AIP_HTTP_PORT" in refusal(AIP_HTTP_PORT="8080", PORT="80")


def told(*argv: str, **environ: str) -> list[str]:
    arguments = cli.parse(argv, environ)
    assert load.composition(arguments).config == ServerConfig()
    return arguments.warnings


@pytest.mark.parametrize("value", ["1,2,4", "8", "1, 2"])
def test_sizes_of_graphs_are_chosen_here(value: str) -> None:
    (line,) = told("--cuda-graphs", value)
    assert line.startswith(f"cuda_graphs={value}: changes nothing, graphs are recorded for sizes of our own")
    (line,) = told(CUDA_GRAPHS=value)
    assert line.startswith(f"environment variable CUDA_GRAPHS={value}: changes nothing, ")


def test_graphs_by_their_later_name() -> None:
    assert compose("--cuda-graphs=0").enable_cuda_graphs is compose(CUDA_GRAPHS="0").enable_cuda_graphs is False
    assert "cuda_graphs=many: expected batch sizes" in refusal("--cuda-graphs", "many")


@pytest.mark.parametrize(("value", "caching"), [("0", False), ("false", False), ("1", True), ("True", True)])
@pytest.mark.parametrize("name", ["PREFIX_CACHING", "USE_PREFIX_CACHING"])
def test_prefix_caching(name: str, value: str, caching: bool) -> None:
    assert compose(**{name: value}).prefix_caching is caching


@pytest.mark.parametrize("name", ["usage-stats", "disable-usage-stats", "disable-crash-reports"])
@pytest.mark.parametrize("value", ["on", "off", "no-stack", "true"])
def test_no_statistics_are_sent(name: str, value: str) -> None:
    assert "this server sends no statistics" in told(f"--{name}={value}")[0]


@pytest.mark.parametrize("flag", [
    "--disable-grammar-support", "--enable-prefill-logprobs", "--disable-usage-stats", "--disable-crash-reports",
])  # fmt: skip
def test_switches_stand_alone(flag: str) -> None:
    name = flag[2:].replace("-", "_")
    for argv in ([flag], [flag, "true"], [flag, "false"]):
        assert told(*argv)[0].startswith(f"{name}={argv[-1] if len(argv) > 1 else 'true'}: changes nothing, ")


@pytest.mark.parametrize(("argv", "words"), [
    (["--lora-adapters", "a,b"], "lora_adapters=a,b: adapters are not loaded beside a model; give one as model_id"),
    (["--kv-cache-dtype", "fp8_e5m2"], "kv_cache_dtype=fp8_e5m2: keys and values are kept in the format of dtype"),
    (["quantize=fp8"], "quantize=fp8: there are no 8-bit floats; quantize=eetq"),
    (["--quantize", "EXL2"], "quantize=EXL2: such checkpoints are not read"),
    (["--max-input-tokens="], "max_input_length=: may not be empty (--max-input-tokens)"),
    (["--max-input-token", "5"], "unknown option --max-input-token (did you mean --max-input-tokens?)"),
])  # fmt: skip
def test_what_matters_and_is_not_there_is_refused(argv: list[str], words: str) -> None:
    assert words in refusal(*argv)


@pytest.mark.parametrize("value", ["paged", "flashinfer", "flashdecoding", "FlashInfer"])
def test_attention_by_the_names_of_later_versions(value: str) -> None:
    assert "the best attention kernels of this machine are taken" in told(ATTENTION=value)[0]
    assert "the best attention kernels of this machine are taken" in told(f"attention={value}")[0]
    assert compose(ATTENTION="torch").attention.fields == {"library": "torch"}


def test_nodes_by_the_names_of_torchrun() -> None:
    single = {"MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29600", "LOCAL_WORLD_SIZE": "1", "LOCAL_RANK": "0"}
    for nodes, rank in (("GROUP_WORLD_SIZE", "GROUP_RANK"), ("NNODES", "NODE_RANK"), ("PET_NNODES", "PET_NODE_RANK")):
        config = compose(**single, **{nodes: "4", rank: "2"})
        assert (config.num_nodes, config.node_rank, config.master_addr, config.master_port) == (4, 2, "10.0.0.1", 29600)
    assert compose("--num-nodes=2", GROUP_WORLD_SIZE="4").num_nodes == 2
    assert "say different things" in refusal(GROUP_WORLD_SIZE="4", NNODES="2")
    assert "PET_NNODES" in refusal(PET_NNODES="1:4")


def test_processes_that_torchrun_counts_are_no_shards_and_that_is_told() -> None:
    assert told(WORLD_SIZE="1", RANK="0", LOCAL_WORLD_SIZE="1", GROUP_WORLD_SIZE="1", GROUP_RANK="0") == []
    lines = told(WORLD_SIZE="8", RANK="3", LOCAL_WORLD_SIZE="8")
    assert len(lines) == 3 and all(
        "changes nothing, a launcher starts all shards of its node" in line for line in lines
    )


def test_what_works_elsewhere_needs_no_line() -> None:
    environ = dict.fromkeys(("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_OFFLINE", "CUDA_VISIBLE_DEVICES"), "1")
    assert told(**environ) == []


def test_in_files_the_own_name_is_told(tmp_path: Path) -> None:
    (tmp_path / "deployment").mkdir()
    for name, words in (("max_input_tokens", "write max_input_length"), ("lora_adapters", "give one as model_id")):
        (tmp_path / "deployment/mine.yaml").write_text(f"# @package _global_\n{name}: 5")
        with pytest.raises(UsageError, match=rf"unknown option {name} \(.*{words}"):
            load.composition(cli.parse([f"--config-dir={tmp_path}", "deployment=mine"], {}))


def test_the_documentation_is_fresh() -> None:
    page = (Path(tgi_server.__file__).parents[1] / "docs/migrating.md").read_text()
    assert page == later_page.written(page), "run scripts/write-options"
    for row in ROWS:
        assert f"`{row.name.upper()}` | " in page

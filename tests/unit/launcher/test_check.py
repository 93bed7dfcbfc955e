"""Checks between options: every problem at once, each with a value that works."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tgi_server.config.base import Part
from tgi_server.config.schema import AUTO, DType, RopeScaling, ServerConfig
from tgi_server.errors import ConfigError
from tgi_server.launcher import check

NATIVE = Part("tgi_server.kernels.choice.AttentionChoice", {"library": "native"})
SDPA = Part("tgi_server.kernels.choice.AttentionChoice", {"library": "torch"})
EETQ = Part("tgi_server.quantize.eetq.Eetq")

NODES: dict[str, Any] = {"num_nodes": 2, "master_addr": "10.0.0.1", "node_token": "0123456789abcdef"}


def works(accelerators: int = 0, **options: Any) -> None:
    check.options(ServerConfig(**options), {}, accelerators)


def problem(accelerators: int = 0, **options: Any) -> str:
    with pytest.raises(ConfigError) as error:
        check.options(ServerConfig(**options), dict.fromkeys(options, "here"), accelerators)
    assert error.value.exit_code == 1
    assert "\n" not in str(error.value)
    return str(error.value)


def test_defaults_are_fine() -> None:
    for accelerators in (0, 1, 4):
        works(accelerators)


def test_limits_are_inclusive_where_they_can_be() -> None:
    works(max_input_length=2047, max_batch_prefill_tokens=2047, max_batch_total_tokens=2048)


def test_each_budget() -> None:
    assert "at most 2047" in problem(max_input_length=2048)
    assert "max_batch_prefill_tokens to at least 1024" in problem(max_batch_prefill_tokens=100)
    assert "at most 3000" in problem(max_batch_total_tokens=3000)
    assert "at least 2048" in problem(max_batch_total_tokens=2000, max_batch_prefill_tokens=1500)


def test_lengths_that_are_settled_later() -> None:
    works(max_total_tokens=AUTO, max_input_length=AUTO, max_batch_total_tokens=5000)
    works(max_total_tokens=AUTO, max_input_length=4096)
    words = "max_input_length=1000: leaves no room for an answer within max_batch_total_tokens=1000; set .* most 999"
    told = problem(
        max_total_tokens=AUTO, max_input_length=1000, max_batch_total_tokens=1000, max_batch_prefill_tokens=1000
    )
    assert re.search(words, told)


def test_a_chunk_takes_the_place_of_the_prefill_budget() -> None:
    works(max_batch_prefill_tokens=100, prefill_chunk_tokens=64)


def test_all_problems_together_each_with_its_origin() -> None:
    budgets = {"max_input_length": 4000, "max_batch_prefill_tokens": 1000, "max_batch_total_tokens": 900}
    lines = problem(**budgets, sharded=True, ngrok=True).split("; ")
    starts = ["max_input_length=4000:", "max_batch_prefill_tokens=1000:", "max_batch_prefill_tokens=1000:"]
    starts += ["max_total_tokens=2048:", "sharded=true:", "ngrok=true:", "ngrok=true:"]
    told = [line for line in lines if line.split(":")[0] + ":" in starts]
    assert [line.split(":")[0] + ":" for line in told] == starts
    assert sum("(here)" in line for line in lines) == 6, "all but max_total_tokens, which was not given"


@pytest.mark.parametrize(("options", "words"), [
    ({"quantize": EETQ, "dtype": DType.bfloat16}, "dtype=bfloat16: cannot be used with quantize"),
    ({"tokenizer_config_path": "/nowhere/x.json"}, "tokenizer_config_path=/nowhere/x.json: there is no such file"),
    ({"validation_workers": 0}, "validation_workers=0: "),
    ({"max_best_of": 9, "max_concurrent_requests": 8}, "at most 8 works"),
    ({"disable_custom_kernels": True, "attention": NATIVE}, "attention.library=native: disable_custom_k"),
    ({"cuda_memory_fraction": 0.5}, "cuda_memory_fraction=0.5: there is no GPU"),
    ({"enable_cuda_graphs": True}, "enable_cuda_graphs=true: there is no CUDA device"),
    ({"cors_allow_origin": ["page.example"]}, "'page.example' is not an origin"),
    ({"cors_allow_origin": ["*", "https://page.example/"]}, "'https://page.example/' is not an origin"),
    ({"api_key": "two words"}, "api_key=***: expected visible ASCII characters without spaces"),
    ({"api_key": "schlüssel"}, "api_key=***: expected visible ASCII characters without spaces"),
    ({"api_key_file": "/nowhere/keys"}, "api_key_file=/nowhere/keys: cannot be read: No such file or directory"),
    ({"api_key_file": "/"}, "api_key_file=/: cannot be read: Is a directory"),
    ({"api_key_file": __file__}, "is no key"),
    ({"ngrok": True, "ngrok_edge": "e"}, "ngrok=true: needs ngrok_authtoken"),
    ({"ngrok": True, "ngrok_authtoken": "t"}, "ngrok=true: needs ngrok_edge"),
    ({"ngrok_edge": "e"}, "ngrok=false: ngrok_edge is only used with ngrok=true"),
    ({"otlp_endpoint": "localhost:4317"}, "such as http://localhost:4317"),
    ({"otlp_endpoint": "http://"}, "otlp_endpoint=http://: "),
    ({"otlp_endpoint": "http://host:port"}, "otlp_endpoint=http://host:port: "),
    ({"record_traffic": "/nowhere/x"}, "record_traffic=/nowhere/x: /nowhere/x: cannot be written"),
    ({"record_traffic": __file__}, "line 1: not JSON in UTF-8"),
    ({"compute_type": "1-gpu\tx"}, "goes into a header of answers"),
    ({"compute_type": "größer"}, "compute_type=größer: goes into a header of answers"),
    ({"node_rank": 1}, "node_rank=1: there is no such node of num_nodes=1; set num_nodes to the number of nodes"),
    ({"node_token": "0123456789abcdef"}, "node_token=***: is only used with num_nodes"),
    ({"node_port": 1234}, "node_port=1234: is only used with num_nodes"),
    ({**NODES, "node_rank": 2}, "node_rank=2: there is no such node of num_nodes=2; 0 to 1 work"),
    ({**NODES, "num_shard": 3}, "num_shard=3: each of num_nodes=2 has equally many; 2 or 4 works"),
    ({**NODES, "num_shard": 1}, "num_shard=1: each of num_nodes=2 has equally many; 2 works"),
    ({**NODES, "sharded": False}, "sharded=false: num_nodes=2 spreads the model"),
    ({**NODES, "master_addr": "localhost"}, "master_addr=localhost: other nodes do not get there"),
    ({**NODES, "node_token": None}, "node_token=null: at least 16 characters are needed"),
    ({**NODES, "node_token": "secret"}, "node_token=***: at least 16 characters are needed"),
    ({**NODES, "node_token_file": "/nowhere"}, "node_token_file=/nowhere: node_token is set, too"),
    ({**NODES, "node_token": None, "node_token_file": "/nowhere"}, "node_token_file=/nowhere: cannot be read"),
    ({**NODES, "node_port": 2999}, "node_port=2999: nodes use the ports 2999 to 3000, of which port is one"),
    ({**NODES, "node_port": 29500}, "node_port=29500: nodes use the ports 29500 to 29501, of which master_port is one"),
    ({**NODES, "node_port": 65535}, "node_port=65535: nodes use the ports 65535 to 65536; at most 65534 works"),
    ({**NODES, "job": Part("tgi_server.jobs.bench.Bench")}, "num_nodes=2: jobs that start servers use one node"),
    ({"log_levels": ["router"]}, "'router' is no level of a process or module; router=debug works"),
    ({"log_levels": ["router=warn", "h2=info"]}, "'h2=info' is no level"),
])  # fmt: skip
def test_refusals(options: dict[str, Any], words: str) -> None:
    assert words in problem(**options)


@pytest.mark.parametrize("options", [
    {"quantize": EETQ}, {"tokenizer_config_path": __file__}, {"max_concurrent_requests": 1},
    {"max_best_of": 8, "max_concurrent_requests": 8}, {"rope_scaling": RopeScaling.linear}, {"rope_factor": 2.0},
    {"disable_custom_kernels": True}, {"disable_custom_kernels": True, "attention": SDPA}, {"attention": NATIVE},
    {"cors_allow_origin": ["*"]}, {"cors_allow_origin": ["https://page.example:8443", "http://[::1]:3000", "null"]},
    {"ngrok": True, "ngrok_edge": "e", "ngrok_authtoken": "t"}, {"otlp_endpoint": "http://localhost:4317"},
    {"otlp_endpoint": "https://collector.example"}, {"compute_type": "2-Fast GPU+x"},
    {"log_levels": ["router=warn", "tgi_server.engine=trace"]},
    {"api_key": "sk-Zm9v/_~+="}, NODES, {**NODES, "node_rank": 1, "num_shard": 4}, {**NODES, "sharded": True},
], ids=str)  # fmt: skip
def test_what_works(options: dict[str, Any]) -> None:
    works(**options)


def test_what_needs_a_gpu_works_with_one() -> None:
    works(1, cuda_memory_fraction=0.5, enable_cuda_graphs=True)
    assert "leave one" in problem(1, disable_custom_kernels=True, enable_cuda_graphs=True)


def test_the_shards_of_all_nodes_need_an_accelerator_each() -> None:
    works(2, **NODES, num_shard=4)
    assert "2 accelerator(s) visible on this node; num_shard=4 works" in problem(2, **NODES, num_shard=6)
    assert check.number_of_shards(ServerConfig(**NODES), 4) == 8


def test_variables_of_nodes_may_be_left_in_the_environment() -> None:
    origins = {"node_token": "environment variable NODE_TOKEN"}
    check.options(ServerConfig(node_token="0123456789abcdef"), origins, 0)


def test_the_variables_of_an_ngrok_account_may_be_there_for_others() -> None:
    origins = {"ngrok_authtoken": "environment variable NGROK_AUTHTOKEN"}
    check.options(ServerConfig(ngrok_authtoken="secret"), origins, 0)
    assert "secret" not in problem(ngrok_authtoken="secret")


@pytest.mark.parametrize(("sharded", "num_shard", "accelerators", "shards"), [
    (None, None, 0, 1), (None, None, 1, 1), (None, None, 4, 4), (None, 2, 4, 2), (None, 3, 0, 3), (None, 1, 4, 1),
    (False, None, 4, 1), (False, 2, 4, 1), (False, 2, 0, 1),
    (True, None, 4, 4), (True, 2, 4, 2), (True, 2, 0, 2),
])  # fmt: skip
def test_number_of_shards(sharded: bool | None, num_shard: int | None, accelerators: int, shards: int) -> None:
    works(accelerators, sharded=sharded, num_shard=num_shard)
    assert check.number_of_shards(ServerConfig(sharded=sharded, num_shard=num_shard), accelerators) == shards


@pytest.mark.parametrize(("options", "accelerators", "words"), [
    ({"sharded": True}, 0, "sharded=true: 0 accelerator(s) visible"),
    ({"sharded": True}, 1, "sharded=true: 1 accelerator(s) visible"),
    ({"sharded": True, "num_shard": 1}, 4, "num_shard=1: sharded=true"),
    ({"sharded": True, "num_shard": 1}, 0, "num_shard=1: sharded=true"),
    ({"sharded": True, "num_shard": 3}, 2, "num_shard=3: 2 accelerator(s) visible; num_shard=2 works"),
    ({"sharded": True, "num_shard": 2}, 1, "num_shard=2: 1 accelerator(s) visible; sharded=false works"),
    ({"num_shard": 2}, 1, "num_shard=2: 1 accelerator(s) visible; sharded=false works"),
])  # fmt: skip
def test_shards_that_cannot_be(options: dict[str, Any], accelerators: int, words: str) -> None:
    assert problem(accelerators, **options).startswith(words)


def test_one_port_for_two_purposes() -> None:
    assert "master_port=3000" in problem(num_shard=2, master_port=3000)
    works(num_shard=1, master_port=3000)

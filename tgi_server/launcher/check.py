"""Checks between options and against this machine, and what follows from both. Nothing slow, nothing is started yet."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path

from tgi_server import api_keys, traffic
from tgi_server.config import describe
from tgi_server.config.options import values
from tgi_server.config.schema import AUTO, LogLevel, ServerConfig
from tgi_server.errors import ConfigError, UsageError
from tgi_server.launcher import sockets
from tgi_server.launcher.nodes import link
from tgi_server.placement import node_port
from tgi_server.telemetry import tracing

LEVEL = rf"(launcher|router|shard|tgi_server(\.\w+)*)=({'|'.join(LogLevel.__members__)})"
"""What `log_levels` may hold."""

Problem = tuple[str, str]
"""The option at fault, and what is wrong with its value and which one works."""


def options(config: ServerConfig, origins: Mapping[str, str], accelerators: int) -> None:
    """Raise ConfigError that tells all problems at once, each with a value that works.

    Args:
        config: every value has its type and lies within its own bounds.
        origins: where the value of an option was written.
        accelerators: visible GPUs.
    """
    problems = [
        *_budgets(config),
        *_request_limits(config),
        *_model(config),
        *_shards(config, accelerators),
        *_nodes(config, origins, accelerators),
        *_devices(config, accelerators),
        *_network(config),
        *_keys(config),
        *_tunnel(config, origins),
        *_telemetry(config),
    ]
    if problems:
        raise ConfigError("; ".join(_line(config, origins, *problem) for problem in problems))


def number_of_shards(config: ServerConfig, accelerators: int) -> int:
    """Shard processes to start, of options that have been checked (decisions D3 and D4)."""
    if config.sharded is False:
        return 1
    return config.num_shard or max(1, accelerators) * config.num_nodes


def _line(config: ServerConfig, origins: Mapping[str, str], name: str, reason: str) -> str:
    return describe.refused(name, values(config, whole=True)[name], reason, origins.get(name))


def _budgets(config: ServerConfig) -> Iterator[Problem]:
    """Budgets that contradict each other, or that no request or step could ever use."""
    longest, total = config.max_input_length, config.max_total_tokens
    prefill, cache = config.max_batch_prefill_tokens, config.max_batch_total_tokens
    name, most = ("max_batch_total_tokens", cache) if total == AUTO else ("max_total_tokens", total)
    if most is not None and longest >= most:
        room = f"leaves no room for an answer within {name}={most}"
        yield "max_input_length", f"{room}; set max_input_length to at most {most - 1}"
    if longest > prefill and config.prefill_chunk_tokens is None:
        room = f"is less than one prompt of max_input_length={longest}"
        yield "max_batch_prefill_tokens", f"{room}; set max_batch_prefill_tokens to at least {longest}"
    if cache is not None and prefill > cache:
        room = f"is more than max_batch_total_tokens={cache}"
        yield "max_batch_prefill_tokens", f"{room}; set max_batch_prefill_tokens to at most {cache}"
    if cache is not None and total > cache:
        room = f"is more than max_batch_total_tokens={cache}"
        yield "max_total_tokens", f"{room}; set max_batch_total_tokens to at least {total}"


def _request_limits(config: ServerConfig) -> Iterator[Problem]:
    """Limits that let nothing through."""
    if config.validation_workers == 0:
        yield "validation_workers", "nobody would tokenise; at least 1 works"
    if config.max_best_of > max(config.max_concurrent_requests, ServerConfig.max_best_of):
        most = config.max_concurrent_requests
        yield "max_best_of", f"each candidate counts as one of max_concurrent_requests={most}; at most {most} works"


def _model(config: ServerConfig) -> Iterator[Problem]:
    """How the model is read and changed."""
    if config.dtype is not None and config.quantize != ServerConfig().quantize:
        # Quantised layers come with a type of their own for what is not quantised.
        yield "dtype", "cannot be used with quantize; leave one of the two out"
    path = config.tokenizer_config_path
    if path is not None and not Path(path).is_file():  # nothing opens it before the model is loaded
        yield "tokenizer_config_path", "there is no such file; leave it out to use the model's own"


def _shards(config: ServerConfig, accelerators: int) -> Iterator[Problem]:
    """How many shards, and where they meet."""
    found = f"{accelerators} accelerator(s) visible"
    wanted, nodes = number_of_shards(config, accelerators), config.num_nodes
    if config.sharded and config.num_shard == 1:
        yield "num_shard", "sharded=true spreads the model over at least 2 shards; set num_shard to 2 or more"
    elif config.sharded and config.num_shard is None and accelerators < 2 and nodes == 1:
        yield "sharded", f"{found}, and at least 2 are needed; sharded=false works"
    elif 0 < accelerators * nodes < wanted:
        most = "sharded=false" if accelerators * nodes == 1 else f"num_shard={accelerators * nodes}"
        yield "num_shard", f"{found}{' on this node' if nodes > 1 else ''}; {most} works"
    if wanted % nodes and config.sharded is not False:
        fewer, more = wanted // nodes * nodes, (wanted // nodes + 1) * nodes
        yield "num_shard", f"each of num_nodes={nodes} has equally many; {f'{fewer} or ' if fewer else ''}{more} works"
    if wanted > 1 and config.master_port == config.port:
        yield "master_port", "is the server's own port; set another master_port"


def _nodes(config: ServerConfig, origins: Mapping[str, str], accelerators: int) -> Iterator[Problem]:
    """Who the nodes are, and where they meet."""
    nodes, default = config.num_nodes, ServerConfig()
    if config.node_rank >= nodes:
        works = f"0 to {nodes - 1} work" if nodes > 1 else "set num_nodes to the number of nodes, or leave it out"
        yield "node_rank", f"there is no such node of num_nodes={nodes}; {works}"
    if nodes == 1:
        for name in ("node_port", "node_token", "node_token_file", "node_timeout", "node_start_timeout"):
            given = getattr(config, name) != getattr(default, name)
            if given and not origins.get(name, "").startswith("environment"):
                yield name, "is only used with num_nodes; set that, or leave it out"
        return
    if config.sharded is False:
        yield "sharded", f"num_nodes={nodes} spreads the model over as many; leave one of the two out"
    if config.job != default.job:
        yield "num_nodes", "jobs that start servers use one node; measure several with job=bench target=URL"
    if sockets.is_unspecified(config.master_addr):
        yield "master_addr", "not one address; set that of node 0 in the network of all nodes"
    if sockets.is_loopback(config.master_addr):
        yield "master_addr", "other nodes do not get there; set the address of node 0 in the network of all nodes"
    try:
        link.token(config)
    except ValueError as error:
        told = origins.get("num_nodes", "")
        alone = f" ({told} sets num_nodes={nodes}; num_nodes=1 node_rank=0 is a server of its own)"
        name = "node_token" if config.node_token_file is None else "node_token_file"
        yield name, f"{error}{alone if told.startswith('environment') else ''}"
    if config.node_token is not None and config.node_token_file is not None:
        yield "node_token_file", "node_token is set, too; leave one of the two out"
    first, last = node_port(config), node_port(config) + number_of_shards(config, accelerators) // nodes
    for name in ("port", "master_port"):
        if first <= getattr(config, name) <= last:
            yield (
                "node_port",
                f"nodes use the ports {first} to {last}, of which {name} is one; set another node_port",
            )
    if last > 65535:
        yield "node_port", f"nodes use the ports {first} to {last}; at most {65535 - last + first} works"


def _devices(config: ServerConfig, accelerators: int) -> Iterator[Problem]:
    """What the kernels and the device are asked for."""
    if config.disable_custom_kernels and config.attention.fields.get("library") not in (None, "torch"):
        yield "attention.library", "disable_custom_kernels=true leaves plain torch; attention=sdpa works"
    if config.disable_custom_kernels and config.enable_cuda_graphs:
        yield "enable_cuda_graphs", "disable_custom_kernels=true leaves nothing to record; leave one of the two out"
    if not accelerators and config.enable_cuda_graphs:
        yield "enable_cuda_graphs", "there is no CUDA device; leave it out"
    if not accelerators and config.cuda_memory_fraction != 1.0:
        yield "cuda_memory_fraction", "there is no GPU whose memory it could limit; leave it out"


def _network(config: ServerConfig) -> Iterator[Problem]:
    """Origins as browsers write them; any other text would match nothing."""
    for origin in config.cors_allow_origin:
        if not re.fullmatch(r"\*|null|[a-z][a-z0-9+.-]*://[^/?#@\s]+", origin):
            yield "cors_allow_origin", f"{origin!r} is not an origin; * and such as https://example.com:8443 work"


def _keys(config: ServerConfig) -> Iterator[Problem]:
    """Keys that a header can hold."""
    if config.api_key is not None and (reason := api_keys.unusable(config.api_key)):
        yield "api_key", reason
    if config.api_key_file is not None:
        try:
            api_keys.read_file(config.api_key_file)
        except ValueError as error:
            yield "api_key_file", str(error)


def _tunnel(config: ServerConfig, origins: Mapping[str, str]) -> Iterator[Problem]:
    """What the tunnel needs. In the environment the account's variables may stand for other programs."""
    needs = ("ngrok_authtoken", "ngrok_edge")
    if config.ngrok:
        for name in needs:
            if getattr(config, name) is None:
                yield "ngrok", f"needs {name}; set it, or leave ngrok out"
        if find_spec("ngrok") is None:
            yield "ngrok", "the package ngrok is not installed; pip install ngrok"
    else:
        for name in needs:
            if getattr(config, name) is not None and not origins.get(name, "").startswith("environment"):
                yield "ngrok", f"{name} is only used with ngrok=true; set that, or leave {name} out"


def _telemetry(config: ServerConfig) -> Iterator[Problem]:
    """Whether traces can be sent, and answers can name the machine."""
    if config.compute_type is not None and not re.fullmatch(r"[!-~]([ -~]*[!-~])?", config.compute_type):
        yield "compute_type", "goes into a header of answers: only visible ASCII characters and spaces between them"
    for text in config.log_levels:
        if not re.fullmatch(LEVEL, text):
            yield "log_levels", f"{text!r} is no level of a process or module; router=debug works"
    if config.otlp_endpoint is not None and (reason := tracing.unusable(config.otlp_endpoint)):
        yield "otlp_endpoint", reason
    if config.record_traffic is not None:
        try:
            traffic.continued(Path(config.record_traffic).expanduser())
        except UsageError as error:
            yield "record_traffic", str(error)

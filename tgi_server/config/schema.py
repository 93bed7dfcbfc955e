"""The options of the server: one dataclass a group, one field an option, `ServerConfig` inherits them all.

Stdlib only. Each field carries its help text; `--help` and the option list are made from it. A consumer takes the
group it needs (`BatchingOptions`), never the whole. Instances are plain and mutable while Hydra fills them and are
frozen once `config.load` has checked them.
"""

from __future__ import annotations

from dataclasses import Field, dataclass, field, fields, replace
from enum import Enum
from typing import Any, ClassVar, Optional

from tgi_server.config.base import Options, Part, option, option_list, part


class DType(Enum):
    """Number format of weights and activations; the names are what the option takes."""

    float16 = "float16"
    bfloat16 = "bfloat16"
    float32 = "float32"


class LogLevel(Enum):
    """Severity of a log line, from the least to the most severe."""

    trace = "trace"
    debug = "debug"
    info = "info"
    warn = "warn"
    error = "error"


AUTO = 0
"""What the word `auto` is kept as: a length that is settled once it is known what fits (`cache.lengths`)."""


class RopeScaling(Enum):
    """Ways to stretch rotary positions."""

    linear = "linear"
    dynamic = "dynamic"


@dataclass
class ModelOptions(Options):
    """Which model, and how its numbers are stored."""

    concerns: ClassVar[tuple[str, ...]] = ("launcher", "shard", "router")

    model_id: str = option(
        "bigscience/bloom-560m",
        "The model to serve: an id on the hub, a local directory with config.json, tokenizer.json and safetensors "
        "(or pytorch_model*.bin files, which are converted once), a .gguf file, or package:NAME/FILE for a file inside "
        "an installed Python package. Or a LoRA adapter of PEFT, on the hub or a directory: it is merged into the base "
        "model that its adapter_config.json names. Or Medusa heads (medusa_lm_head.safetensors or .pt), which guess "
        "tokens ahead for the base model that their config.json names. Where there is no tokenizer.json one is made of "
        "SentencePiece, tiktoken or vocabulary files.",
    )
    revision: Optional[str] = option(
        None, "Branch, tag, commit or refs/pr/N of a hub model; the default branch when unset."
    )
    trust_remote_code: bool = option(
        False,
        "Allow that code which comes with a model (auto_map in its config.json) runs on this machine, for models that "
        "neither this server nor transformers knows; a warning then names model and revision.",
    )
    dtype: Optional[DType] = option(
        None,
        "Number format of weights and activations. Unset: float16 on GPUs; on CPUs bfloat16 where the processor "
        "computes it natively, else float32.",
        concerns=("shard",),
    )
    tokenizer_config_path: Optional[str] = option(
        None,
        "A tokenizer configuration (JSON) whose chat_template is used instead of the model's own.",
        concerns=("router",),
    )
    huggingface_hub_cache: Optional[str] = option(
        None, "Directory of the hub cache; the hub library's own default when unset."
    )
    weights_cache_override: Optional[str] = option(
        None,
        "Directory that holds the model's weight files (safetensors); none are downloaded or converted then. Where "
        "it has no config.json or no tokenizer, all but the weights comes from model_id, a directory or in the "
        "hub cache.",
    )
    conversion_cache: Optional[str] = option(
        None,
        "Directory where models converted from other formats (GGUF, .bin, other tokenizers) are kept; tgi_server/ in "
        "the user's cache directory when unset.",
    )


@dataclass
class ShardOptions(Options):
    """How the model is spread over processes."""

    concerns: ClassVar[tuple[str, ...]] = ("launcher", "shard", "router")

    sharded: Optional[bool] = option(
        None,
        "true: spread the model over all visible accelerators, of which there have to be at least two (or over "
        "num_shard of them); false: one shard, whatever num_shard says. Unset: num_shard decides.",
    )
    num_shard: Optional[int] = option(
        None,
        "Number of shard processes, of all nodes together. Unset: the number of visible accelerators, 1 where there is "
        "none, on each node. Of a "
        "decoder any number up to its attention heads works; the work is even where it divides the key/value heads. "
        "For others the numbers that work are told when one does not.",
        minimum=1,
    )
    shard_uds_path: str = option(
        "/tmp/text-generation-server", "Prefix of the unix sockets between router and shards; -RANK is appended."
    )
    speculate: Optional[int] = option(
        None,
        "Most tokens to guess ahead of a text in each step, which the model then checks together; texts stay the same. "
        "Fewer are guessed, or none, as far as guesses turn out wrong or the batch is large. 0: none. Unset: as many "
        "as a checkpoint has Medusa heads, else none.",
        minimum=0,
        maximum=64,
        concerns=("shard", "router"),
    )
    enable_cuda_graphs: Optional[bool] = option(
        None,
        "Record decode steps as CUDA graphs, which spares the time to launch each kernel. Unset: where they work; "
        "true insists, false forbids.",
        concerns=("shard",),
    )
    disable_custom_kernels: bool = option(
        False,
        "Compute with plain torch only: none of the compiled or Triton kernels, no flash-attn.",
        concerns=("shard",),
    )
    cuda_memory_fraction: float = option(
        1.0,
        "Part of each GPU's memory that this server may use; refused where there is no GPU.",
        minimum=0.01,
        maximum=1.0,
        concerns=("shard",),
    )
    preallocate_cache: bool = option(
        False,
        "On CPUs, take the memory of the caches from the system at the start, all of it, rather than block by block as "
        "it is first used: what does not fit fails at once, and the shards do not grow later. On GPUs it is always so.",
        concerns=("shard",),
    )
    master_addr: str = option("localhost", "Address where the shards meet (torch.distributed).", concerns=("shard",))
    master_port: int = option(
        29500,
        "Port where the shards meet (torch.distributed).",
        minimum=1,
        maximum=65535,
        concerns=("launcher", "shard"),
    )
    num_nodes: int = option(
        1,
        "Number of machines that the model is spread over. Each runs a launcher with the same options but node_rank, "
        "has the model, and runs num_shard / num_nodes of the shards.",
        minimum=1,
    )
    node_rank: int = option(
        0,
        "Number of this machine among num_nodes, from 0. Node 0 serves HTTP, and has master_addr; the others only run "
        "shards.",
        minimum=0,
        concerns=("launcher", "shard"),
    )
    node_port: Optional[int] = option(
        None,
        "First of the ports between nodes: the launcher of node 0 listens on it, shards of other nodes on those after "
        "it. Unset: the one after master_port.",
        minimum=1,
        maximum=65535,
    )
    node_token: Optional[str] = option(
        None,
        "Secret that all nodes share and prove to each other, at least 16 characters; it or node_token_file is "
        "required with num_nodes.",
        secret=True,
        concerns=("launcher",),
    )
    node_token_file: Optional[str] = option(
        None, "File that holds it, instead. It is read at the start only.", concerns=("launcher",)
    )
    node_timeout: float = option(
        10.0,
        "Seconds without a word of another node after which it is lost, which ends the service.",
        minimum=2,
        maximum=50,
        concerns=("launcher",),
    )
    node_start_timeout: float = option(
        600.0,
        "Seconds in which all nodes have to be there; how long they take to get and load the model does not count.",
        minimum=1,
        concerns=("launcher",),
    )


@dataclass
class BatchingOptions(Options):
    """What one request, one step and all running requests together may use, in tokens."""

    concerns: ClassVar[tuple[str, ...]] = ("shard", "router")

    max_concurrent_requests: int = option(
        128, "Requests being validated, waiting or running at a time; further ones are refused (429).", minimum=1
    )
    max_input_length: int = option(
        1024,
        "Longest prompt in tokens. auto: as long as max_total_tokens and one prefill allow; so it is left out beside "
        "max_total_tokens=auto.",
        minimum=1,
        words={"auto": AUTO},
    )
    max_total_tokens: int = option(
        2048,
        "Longest prompt and answer together, in tokens. auto: as many as the model was made for and the memory holds; "
        "/info and the log tell.",
        minimum=2,
        words={"auto": AUTO},
    )
    waiting_served_ratio: float = option(
        1.2,
        "Running requests are paused for a prefill once this many times their number is waiting "
        "(or after max_waiting_tokens).",
        minimum=0,
        concerns=("router",),
    )
    max_batch_prefill_tokens: int = option(4096, "Prompt tokens one prefill may take.", minimum=1, concerns=("router",))
    max_batch_total_tokens: Optional[int] = option(
        None,
        "Tokens of cache that all running requests may hold together. Unset: what fits in the free memory, "
        "as far as max_concurrent_requests can use it.",
        minimum=1,
    )
    max_waiting_tokens: int = option(
        20,
        "Decode steps after which waiting requests are let in regardless of waiting_served_ratio.",
        minimum=0,
        concerns=("router",),
    )
    max_batch_size: Optional[int] = option(
        None, "Most requests running at a time; no limit when unset.", minimum=1, concerns=("router",)
    )
    prefill_chunk_tokens: Optional[int] = option(
        None,
        "Prompt tokens that a step computes beside one token of every running request, which then never pauses: "
        "long prompts are spread over steps. Replaces max_batch_prefill_tokens, waiting_served_ratio and "
        "max_waiting_tokens, whose rules hold when unset.",
        minimum=16,
    )
    prefix_caching: Optional[bool] = option(
        None,
        "Keep the cache blocks of prompts and reuse them for prompts that begin with the same tokens, exact, least "
        "recently used first out. Unset: where the model allows it and it takes no more memory.",
    )


@dataclass
class ValidationOptions(Options):
    """What a request may ask for."""

    concerns: ClassVar[tuple[str, ...]] = ("router",)

    validation_workers: int = option(2, "Threads that tokenise and check requests, at least one.", minimum=0)
    max_best_of: int = option(
        2, "Most candidates (best_of) that a request may have generated to get the likeliest of them.", minimum=1
    )
    max_stop_sequences: int = option(4, "Most stop sequences a request may give.", minimum=0)
    max_top_n_tokens: int = option(5, "Most alternatives a token (top_n_tokens) a request may ask for.", minimum=0)
    payload_limit: int = option(
        2 * 1024 * 1024, "Longest body of a request in bytes; longer ones are refused (413).", minimum=1
    )
    reasoning: bool = option(
        True,
        "Tell what a model thinks before it answers apart from the answer (reasoning_content of a chat), where its "
        "chat template knows the marks of thoughts. false: it is part of the text, as are the marks.",
    )
    messages_api_enabled: bool = option(
        False, "POST /invocations takes what /v1/chat/completions takes, instead of what / takes."
    )


@dataclass
class WatermarkOptions(Options):
    """How requests with `watermark` are marked (arXiv:2301.10226)."""

    concerns: ClassVar[tuple[str, ...]] = ("shard",)

    watermark_gamma: Optional[float] = option(
        None, "Part of the vocabulary that is favoured at each position; 0.5 when unset.", minimum=0.01, maximum=0.99
    )
    watermark_delta: Optional[float] = option(
        None, "What is added to the scores of favoured tokens; 2.0 when unset.", minimum=0.0, maximum=100.0
    )


@dataclass
class RopeOptions(Options):
    """Rotary positions stretched beyond the length that the model was trained on."""

    concerns: ClassVar[tuple[str, ...]] = ("shard",)

    rope_scaling: Optional[RopeScaling] = option(
        None, "How positions are scaled. Unset: as the model's own configuration says, linear with rope_factor."
    )
    rope_factor: Optional[float] = option(
        None,
        "How many times longer than trained the positions may be; 1 when only rope_scaling is set.",
        minimum=1.0,
        maximum=1000.0,
    )


@dataclass
class NetworkOptions(Options):
    """Where the server listens and how it stops."""

    concerns: ClassVar[tuple[str, ...]] = ("router",)

    hostname: str = option("0.0.0.0", "IP address to listen on (IPv4 or IPv6).", concerns=("launcher", "router"))
    port: int = option(
        3000,
        "Port to listen on; 0 lets the system choose one.",
        minimum=0,
        maximum=65535,
        concerns=("launcher", "router"),
    )
    cors_allow_origin: list[str] = option_list(
        "Origin of web pages that may call this server from browsers (repeatable); * for any. Any unless given."
    )
    api_key: Optional[str] = option(
        None,
        "Key that clients have to send, as Authorization: Bearer KEY or x-api-key: KEY; only health, metrics, info "
        "and pages need none. Everybody may call when unset. job=bench sends it.",
        secret=True,
        concerns=("router", "job"),
    )
    api_key_file: Optional[str] = option(
        None,
        "File with more such keys, one a line (# begins a comment), each as good as the others. It is read at the "
        "start only.",
        concerns=("router", "job"),
    )
    ngrok: bool = option(False, "Publish the server through an ngrok tunnel; only health and metrics stay local.")
    ngrok_authtoken: Optional[str] = option(None, "Authtoken of the ngrok account; required with ngrok.", secret=True)
    ngrok_edge: Optional[str] = option(None, "Edge of the ngrok account that leads here; required with ngrok.")
    shutdown_timeout: float = option(
        90.0,
        "Seconds that running requests have to finish after SIGTERM or SIGINT.",
        minimum=0,
        concerns=("launcher", "router"),
    )
    receive_timeout: float = option(
        60.0,
        "Seconds from the first byte of a request to its last; one that takes longer is refused (408).",
        minimum=0.1,
        maximum=36000,
    )
    send_timeout: float = option(
        60.0,
        "Seconds after which a client that reads no further, or is out of reach, is cut off: its generation ends and "
        "its place is free.",
        minimum=0.1,
        maximum=36000,
    )
    max_client_connections: Optional[int] = option(
        None,
        "Most connections that one address (of IPv6: one /64 network) may have open; further ones are refused (429). "
        "Unset: any number, as behind a proxy all clients have its address.",
        minimum=1,
    )


@dataclass
class TelemetryOptions(Options):
    """What the server says about itself."""

    concerns: ClassVar[tuple[str, ...]] = ("launcher", "shard", "router", "job")

    json_output: bool = option(False, "Write logs as one JSON object a line instead of text.")
    otlp_endpoint: Optional[str] = option(
        None,
        "URL of an OpenTelemetry collector (OTLP over gRPC) that gets a trace of every request.",
        concerns=("router",),
    )
    otlp_service_name: str = option(
        "text-generation-inference.router", "Name of this server in its traces.", concerns=("router",)
    )
    log_level: LogLevel = option(LogLevel.info, "Least severe log lines to write.")
    log_levels: list[str] = option_list(
        "Another level for one kind of process (launcher, router, shard) or one module, as router=debug or "
        "tgi_server.engine=trace (repeatable)."
    )
    record_traffic: Optional[str] = option(
        None,
        "File to which lengths and arrival times of requests are written, never text: a traffic for job=bench and "
        "job=tune. One that is there is continued.",
        concerns=("router",),
    )
    compute_type: Optional[str] = option(
        None,
        "Kind of machine that the x-compute-type header of answers names. Unset: number of shards and name of the "
        "first GPU (2-nvidia-a10g), or cpu.",
        concerns=("router",),
    )


@dataclass
class ServerConfig(
    ModelOptions,
    ShardOptions,
    BatchingOptions,
    ValidationOptions,
    WatermarkOptions,
    RopeOptions,
    NetworkOptions,
    TelemetryOptions,
):
    """The whole configuration, one flat list of options and the parts that are put in from YAML groups."""

    quantize: Part = part(
        "tgi_server.quantize.none.NoQuantize", "How linear layers store and multiply their weights.", ("shard",),
        offers=("reader", "reads"),
    )  # fmt: skip
    attention: Part = part(
        "tgi_server.kernels.choice.AttentionChoice", "Which attention kernels the shards use.", ("shard",),
        offers=("wanted",),
    )  # fmt: skip
    speculation: Part = part(
        "tgi_server.speculate.auto.Auto", "How tokens are guessed ahead where `speculate` asks for it.", ("shard",),
        offers=("drafter", "uses_heads"),
    )  # fmt: skip
    runner: Part = part("tgi_server.shard.runner.ModelRunner", "What a shard process runs.", ("shard",), typed=False)
    router: Part = part("tgi_server.router.app.create_app", "What the router process serves.", ("router",), typed=False)
    job: Part = part(
        "tgi_server.jobs.serve.Serve",
        "What to do with the configured server: serve it, serve several of it (replicas on Ray Serve), measure it (or "
        "another) under load, simulate that, find what serves best, or make a quantised checkpoint of its model.",
        ("job",),
        offers=("perform",),
    )


def documented_options() -> list[Field[Any]]:
    """The fields of `ServerConfig` that are options of their own, in the order of their groups."""
    return [f for group in ServerConfig.__bases__ for f in fields(group)]


def secrets() -> set[str]:
    """Names of the options whose values only those may know who need them."""
    return {f.name for f in documented_options() if f.metadata["secret"]}


def without_secrets(config: ServerConfig) -> ServerConfig:
    """The configuration for a process that has no use for them."""
    none: dict[str, Any] = dict.fromkeys(secrets())
    return replace(config, **none)


def without_variable() -> set[str]:
    """Names that no environment variable sets: JOB is there for many other purposes."""
    return {"job"}


def flags_with_value() -> set[str]:
    """Truth values whose flag always has a value, as the option page has it; other flags alone stand for true."""
    return {"sharded"}


@dataclass
class Resolved(Options):
    """What the launcher found out from the configuration and this machine, told to its child processes."""

    model_dir: str = ""
    adapter_dir: Optional[str] = None
    """Holds the adapter that is merged into the weights in `model_dir`."""
    heads_dir: Optional[str] = None
    """Holds the heads that guess tokens ahead; None where there are none, or none are wanted."""
    heads: int = 0
    """How many these are: so many tokens are guessed where `speculate` is unset."""
    num_shard: int = 1
    dtype: DType = DType.float32
    listen_fd: int = -1
    """Bound, not yet listening socket that the router inherits; -1 in shards."""
    shard_pids: list[int] = field(default_factory=list)
    """Processes of the shards, for the router."""
    watched: bool = False
    """The process is to give signs of life (`telemetry.signs`)."""
    compute_type: str = "1-cpu"
    """The number of shards and what they run on, for clients."""
    model_sha: Optional[str] = None
    """Commit of a model that came from the hub."""
    pipeline_tag: Optional[str] = None
    """What the hub said this model is for, where it was asked."""
    sha: Optional[str] = None
    """Commit of this program."""
    docker_label: Optional[str] = None
    """Name of the container image."""
    description: Optional[str] = None
    """What was found out of a model of no family (`models.fallback.spec`); None for others."""
    node_hosts: list[str] = field(default_factory=list)
    """Address of each node; empty where there is only this one."""
    call_key: Optional[str] = None
    """What a router shows to shards of other nodes; made anew at each start."""
    load_seconds: Optional[float] = None
    """From the start of the shards until all had loaded the model; None where nobody waited for that."""


@dataclass
class Launch(Options):
    """All a child process needs to start."""

    config: ServerConfig = field(default_factory=ServerConfig)
    resolved: Resolved = field(default_factory=Resolved)

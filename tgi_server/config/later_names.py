"""The names themselves: one row for each flag and variable that other launchers know and ours does not.

Those of text-generation-inference 1.0 to 3.3 that are no options here, variables of its images and of the platforms
that run them, and values of our own options that mean something else there. `later` says what a row can say,
docs/migrating.md shows them.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from tgi_server.config import log_filter
from tgi_server.config.later import Means, Nothing, Refused, Row, Works

_TRUE, _FALSE = "true|1", "false|0"
_NO_STATISTICS = Nothing("this server sends no statistics and no crash reports")
_CHOSEN = Nothing("the best attention kernels of this machine are taken; attention=NAME insists on others")
_OWN_KERNELS = Nothing("this server has kernels of its own; disable_custom_kernels=true leaves all of them out")
_HUB = Works("the hub library reads it")
_SAGEMAKER = Nothing("it is read with deployment=sagemaker only; give that, or the option itself")
_RANKS = Nothing(
    "a launcher starts all shards of its node itself, as num_shard says; of nodes NNODES and NODE_RANK are read, or "
    "torchrun's GROUP_WORLD_SIZE and GROUP_RANK"
)
_NO_SUCH_DEVICE = Nothing("this server computes on CUDA GPUs and on processors only")

_LAUNCHER = [
    Row("max_input_tokens", Means("max_input_length")),
    Row("graceful_termination_timeout", Means("shutdown_timeout")),
    Row("cuda_graphs", Refused(
        "expected batch sizes (1,2,4), or 0 for no graphs; in files write enable_cuda_graphs"
    ), {
        "0": Means("enable_cuda_graphs", "false"),
        r"(?#1,2,4)\d+(\s*,\s*\d+)*": Nothing(
            "graphs are recorded for sizes of our own wherever they work; enable_cuda_graphs insists on them"
        ),
    }),
    Row("kv_cache_dtype", Refused("keys and values are kept in the format of dtype; leave it out, or set dtype"), {
        "auto": Nothing("keys and values are kept in the format of dtype"),
    }),
    Row("lora_adapters", Refused(
        "adapters are not loaded beside a model; give one as model_id (it names its base model), one server for each"
    )),
    Row("usage_stats", _NO_STATISTICS),
    Row("disable_usage_stats", _NO_STATISTICS, switch=True),
    Row("disable_crash_reports", _NO_STATISTICS, switch=True),
    Row("prometheus_port", Nothing("metrics are at /metrics on the port of the server itself")),
    Row("disable_grammar_support", Nothing("grammars are served; requests without one take no longer for it"), {
        _FALSE: Nothing("grammars are served"),
    }, switch=True),
    Row("enable_prefill_logprobs", Nothing("requests that ask for them get them (decoder_input_details)"), switch=True),
    Row("max_client_batch_size", Nothing("a list of prompts counts as that many of max_concurrent_requests")),
    Row("max_image_fetch_size", Nothing("images are not served")),
]  # fmt: skip
_VALUES = [
    Row("quantize", None, {
        "fp8": Refused("there are no 8-bit floats; quantize=eetq keeps any float checkpoint in 8 bits"),
        "exl2": Refused("such checkpoints are not read; those of AWQ, GPTQ and bitsandbytes are"),
        "marlin|compressed-tensors": Nothing("what the checkpoint says of itself counts, and the best kernels for it"),
    }),
    Row("attention", None, {"paged|flashinfer|flashdecoding|flashdecoding-ipex": _CHOSEN}),
    Row("log_level", read=log_filter.read, flag=False),
]  # fmt: skip
_VARIABLES = [
    Row("use_prefix_caching", Means("prefix_caching"), flag=False),
    Row("prefill_chunking", Refused("expected true or false; prefill_chunk_tokens=256 has long prompts in pieces"), {
        _TRUE: Means("prefill_chunk_tokens", "256"),
        _FALSE: Nothing("prompts are taken whole unless prefill_chunk_tokens says otherwise"),
    }, flag=False),
    Row("flash_decoding", _CHOSEN, flag=False),
    Row("flashinfer", _CHOSEN, flag=False),
    Row("flash_attention", _CHOSEN, flag=False),
    Row("use_flash_attention", _CHOSEN, flag=False),
    Row("block_size", Nothing("blocks of the cache have a size of their own"), flag=False),
    Row("exllama_version", _OWN_KERNELS, flag=False),
    Row("disable_exllama", _OWN_KERNELS, flag=False),
    Row("rocm_use_flash_attn_v2_triton", _NO_SUCH_DEVICE, flag=False),
    Row("rocm_use_custom_paged_attn", _NO_SUCH_DEVICE, flag=False),
    Row("habana_visible_devices", _NO_SUCH_DEVICE, flag=False),
    Row("hf_num_cores", _NO_SUCH_DEVICE, flag=False),
    Row("hf_auto_cast_type", _NO_SUCH_DEVICE, flag=False),
    Row("safetensors_fast_gpu", Nothing("nothing here depends on it"), flag=False),
    Row("rust_log", Nothing("LOG_LEVEL is read"), flag=False),
    Row("log_colorize", Nothing("logs have no colours"), flag=False),
    Row("hf_model_id", _SAGEMAKER, flag=False),
    Row("hf_model_revision", _SAGEMAKER, flag=False),
    Row("sm_num_gpus", _SAGEMAKER, flag=False),
    Row("hf_model_quantize", _SAGEMAKER, flag=False),
    Row("hf_model_trust_remote_code", _SAGEMAKER, flag=False),
    Row("hf_task", Nothing("what a model is for is read from its files"), flag=False),
    Row("aip_http_port", Means("port"), flag=False),
    Row("aip_health_route", Nothing("set the health route of the model on Vertex AI to /health, which is served"), {
        "/health": Works("it is served"),
    }, flag=False),
    Row("aip_predict_route", Nothing("`instances` are not read; rawPredict hands requests on as they are"), flag=False),
    Row("transformers_cache", Nothing("set HF_HOME, or huggingface_hub_cache"), flag=False),
    Row("hf_token", _HUB, flag=False),
    Row("hugging_face_hub_token", _HUB, flag=False),
    Row("hf_api_token", Works("it is handed to the hub library, where HF_TOKEN is not set"), flag=False),
    Row("hf_home", _HUB, flag=False),
    Row("hf_hub_cache", Works("the hub library reads it, where huggingface_hub_cache is not set"), flag=False),
    Row("hf_endpoint", _HUB, flag=False),
    Row("hf_hub_offline", _HUB, flag=False),
    Row("transformers_offline", _HUB, flag=False),
    Row("hf_hub_download_timeout", _HUB, flag=False),
    Row("hf_hub_enable_hf_transfer", Works("downloads use more connections and memory"), flag=False),
    Row("cuda_visible_devices", Works("only these GPUs are used"), flag=False),
    Row("nvidia_visible_devices", Works("likewise, where CUDA_VISIBLE_DEVICES is not set"), flag=False),
    Row("pytorch_cuda_alloc_conf", Works("torch reads it"), flag=False),
    Row("nccl_shm_disable", Works("NCCL reads it, as all its variables"), flag=False),
    Row("nnodes", Means("num_nodes"), flag=False),
    Row("group_world_size", Means("num_nodes"), flag=False),
    Row("group_rank", Means("node_rank"), flag=False),
    Row("pet_nnodes", Means("num_nodes"), flag=False),
    Row("pet_node_rank", Means("node_rank"), flag=False),
    Row("world_size", _RANKS, {"1": Works("there is one shard unless num_shard says otherwise")}, flag=False),
    Row("rank", _RANKS, {"0": Works("this is the only launcher, unless num_nodes says otherwise")}, flag=False),
    Row("local_world_size", _RANKS, {"1": Works("there is one launcher a node")}, flag=False),
    Row("omp_num_threads", Works("threads of each shard"), flag=False),
    Row("otel_exporter_otlp_headers", Works("OpenTelemetry reads it, as all its variables"), flag=False),
]  # fmt: skip

ROWS: Mapping[str, Row] = MappingProxyType({row.name: row for row in [*_LAUNCHER, *_VALUES, *_VARIABLES]})

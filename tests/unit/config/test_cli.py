"""One name, three spellings; what they mean and how they are refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from tgi_server.config import cli, load, options
from tgi_server.config.arguments import quote
from tgi_server.config.base import Part
from tgi_server.config.schema import DType, LogLevel, ServerConfig, without_variable
from tgi_server.errors import UsageError

AWKWARD = [
    "5e1234", "1e5", "true", "null", "a=b", "~/m", "a,b", "x{y}", "${x}", r"\${x}", "$", "it's", '"q"', "ü 漢 🙂",
    "a#b", "[1]", "\\", "'", " a ", "refs/pr/1", "a\nb", "*", "!x", "%",
]  # fmt: skip
TEXTS = [
    name
    for name, hint in options.TYPES.items()
    if options.inner_type(hint) is str and not options.is_list(hint) and name != "hostname"
]


def compose(*argv: str, **environ: str) -> ServerConfig:
    return load.composition(cli.parse(argv, environ)).config


def refusal(*argv: str, **environ: str) -> str:
    with pytest.raises(UsageError) as error:
        compose(*argv, **environ)
    assert "\n" not in str(error.value)
    assert error.value.exit_code == 2
    return str(error.value)


@pytest.mark.parametrize("argv", [["--max-input-length", "10"], ["--max-input-length=10"], ["max_input_length=10"]])
def test_spellings(argv: list[str]) -> None:
    (override,) = cli.parse(argv, {}).overrides
    assert cli.parse([], {"MAX_INPUT_LENGTH": "10"}).overrides == [override]
    assert load.compose([override]).max_input_length == 10


@pytest.mark.parametrize("argv", [["-p", "81"], ["-p81"], ["-p=81"], ["--port", "81"], ["port=81"]])
def test_port(argv: list[str]) -> None:
    assert cli.parse(argv, {}).overrides == ["port='81'"]


def overrides_of(**options: str) -> list[str]:
    return cli.parse([f"--{name.replace('_', '-')}={text}" for name, text in options.items()], {}).overrides


@pytest.mark.parametrize("start", range(0, len(AWKWARD), len(TEXTS)))
def test_awkward_texts_survive_in_every_spelling(start: int) -> None:
    given = dict(zip(TEXTS, AWKWARD[start:], strict=False))
    config = load.compose(overrides_of(**given))
    assert {name: getattr(config, name) for name in given} == given
    from_environment = {name: text for name, text in given.items() if name not in without_variable()}
    environ = {name.upper(): text for name, text in from_environment.items()}
    assert cli.parse([], environ).overrides == overrides_of(**from_environment)
    literal = {name: text for name, text in given.items() if text not in ("null", '"q"') and "${" not in text}
    plain = cli.parse([f"{name}={text}" for name, text in literal.items()], {})
    assert plain.overrides == overrides_of(**literal)


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")))
def test_quote_is_exact(text: str) -> None:
    value = OverridesParser.create().parse_override(f"k={quote(text)}").value()
    config = OmegaConf.create({"k": ""})
    OmegaConf.update(config, "k", value)
    assert config.k == text


def test_hydra_grammar_stays_usable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHERE", "/models")
    assert compose("model_id=${oc.env:WHERE}/m").model_id == "/models/m"
    assert compose("model_id='quoted'").model_id == "quoted"
    assert compose("revision=null", REVISION="x").revision is None


def test_precedence() -> None:
    assert compose("network=docker").port == 80
    assert compose("network=docker", PORT="81").port == 81
    assert compose("network=docker", "--port", "82", PORT="81").port == 82
    assert compose("port=83", "--port", "84").port == 84
    assert compose("--port", "84", "port=83").port == 83
    assert compose("network=docker", "deployment=laptop").hostname == "127.0.0.1"
    assert compose("deployment=laptop", "model=default").model_id == ServerConfig().model_id


def test_types() -> None:
    assert compose("--dtype", "bfloat16").dtype is DType.bfloat16
    assert compose(LOG_LEVEL="warn").log_level is LogLevel.warn
    assert compose("--waiting-served-ratio", "2").waiting_served_ratio == 2.0


@pytest.mark.parametrize(
    ("text", "value"), [("true", True), ("TRUE", True), ("1", True), ("False", False), ("0", False)]
)
def test_booleans(text: str, value: bool) -> None:
    expected = [f"json_output={str(value).lower()}"]
    assert cli.parse([], {"JSON_OUTPUT": text}).overrides == expected
    assert cli.parse(["--json-output", text], {}).overrides == expected
    assert cli.parse([f"--json-output={text}"], {"JSON_OUTPUT": "true"}).overrides == expected


def test_a_flag_without_value_takes_no_other_argument() -> None:
    config = compose("--json-output", "port=1")
    assert config.json_output and config.port == 1


SWITCHES = [
    "trust_remote_code", "enable_cuda_graphs", "disable_custom_kernels", "preallocate_cache", "prefix_caching",
    "messages_api_enabled", "reasoning", "ngrok", "json_output",
]  # fmt: skip


def test_switches_are_all_truth_values_but_one() -> None:
    booleans = [name for name, hint in options.TYPES.items() if options.inner_type(hint) is bool]
    assert sorted(booleans) == sorted([*SWITCHES, "sharded"])


@pytest.mark.parametrize("name", SWITCHES)
@pytest.mark.parametrize("rest", [[], ["port=1"], ["-p", "1"], ["--revision", "true"]])
def test_the_flag_of_a_truth_value_alone_is_true(name: str, rest: list[str]) -> None:
    flag, others = f"--{name.replace('_', '-')}", cli.parse(rest, {}).overrides
    for argv, value in (([], "true"), (["true"], "true"), (["False"], "false"), (["1"], "true"), (["0"], "false")):
        assert cli.parse([flag, *argv, *rest], {}).overrides == [f"{name}={value}", *others]
    assert cli.parse([*rest, f"{flag}=false"], {}).overrides == [*others, f"{name}=false"]


def test_sharded_has_a_value() -> None:
    assert compose("--sharded", "false").sharded is False
    assert "--sharded needs a value" in refusal("--sharded", "--num-shard", "2")


def test_groups_are_flags_too() -> None:
    assert compose("--batching", "latency").max_batch_size == 8
    config = compose("--quantize", "none", ATTENTION="sdpa")
    assert config.quantize._target_ == "tgi_server.quantize.none.NoQuantize"
    assert config.attention._target_ == "tgi_server.kernels.choice.AttentionChoice"
    assert config.attention.fields == {"library": "torch"}


def test_origins_and_environment_that_the_command_line_replaces() -> None:
    arguments = cli.parse(["--port", "1", "revision=x"], {"PORT": "", "MODEL_ID": "m"})
    assert arguments.origins == {
        "port": "--port", "revision": "command line", "model_id": "environment variable MODEL_ID"
    }  # fmt: skip


@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0"])
def test_hostname_from_the_environment(address: str) -> None:
    assert cli.parse([], {"HOSTNAME": address}).overrides == [f"hostname='{address}'"]


@pytest.mark.parametrize("name", ["4f1c7d0e", "localhost", "203.0.113.7"])
def test_hostname_of_a_container_is_ignored(name: str) -> None:
    arguments = cli.parse([], {"HOSTNAME": name})
    assert arguments.overrides == []
    assert "HOSTNAME" in arguments.warnings[0]


def test_the_load_generator_reads_no_environment() -> None:
    config = compose("job=bench", TARGET="http://other", OUTPUT="/tmp", CLIENTS="x", JOB="x")
    assert config.job == Part("tgi_server.jobs.bench.Bench", fields={})


def test_service_addresses_are_ignored() -> None:
    arguments = cli.parse([], {"PORT": "tcp://10.0.0.1:80", "MASTER_PORT": "tcp://10.0.0.1:80"})
    assert arguments.overrides == []
    assert len(arguments.warnings) == 2


@pytest.mark.parametrize(("argv", "environ", "words"), [
    (["max_batch_sise=4"], {}, ["max_batch_sise", "max_batch_size"]),
    (["--max-batch-sise", "4"], {}, ["--max-batch-sise", "--max-batch-size"]),
    (["--num_shard", "4"], {}, ["--num_shard", "--num-shard"]),
    (["+max_batch_sise=4"], {}, ["max_batch_sise", "max_batch_size"]),
    (["+quantize.bits=4"], {}, ["quantize.bits"]),
    (["~nothing"], {}, ["nothing"]),
    (["port=10.7"], {}, ["port=10.7", "whole number"]),
    (["--port", "x"], {}, ["port=x", "whole number", "--port"]),
    ([], {"PORT": "x"}, ["port=x", "whole number", "environment variable PORT"]),
    (["--revision="], {}, ["revision", "empty", "--revision"]),
    (["num_shard="], {}, ["num_shard", "empty", "command line"]),
    ([], {"JSON_OUTPUT": "yes"}, ["json_output=yes", "true or false", "environment variable JSON_OUTPUT"]),
    ([], {"QUANTIZE": "magic"}, ["quantize=magic", "none", "environment variable QUANTIZE"]),
    (["dtype=float8"], {}, ["dtype=float8", "bfloat16"]),
    (["port=null"], {}, ["port=null"]),
    (["quantize=null"], {}, ["quantize=null"]),
    (["model=a,b"], {}, ["model=a,b"]),
    (["model=smollm3"], {}, ["model=smollm3", "smollm2"]),
    (["port=70000", "num_shard=0"], {}, ["port=70000", "65535", "num_shard=0", "at least 1"]),
    (["waiting_served_ratio=nan"], {}, ["waiting_served_ratio=nan", "finite"]),
    (["quantize._target_=os.system"], {}, ["os.system", "tgi_server"]),
    (["--port"], {}, ["--port"]),
    (["--port", "--json-output"], {}, ["--port"]),
    (["--resolve"], {}, ["--resolve", "--cfg"]),
    (["--env", "--cfg", "job"], {}, ["--env"]),
    (["-m", "--info"], {}, ["--multirun", "--info"]),
    (["--info=x"], {}, ["--info=x", "defaults-tree"]),
    (["-sc", "bash"], {}, ["bash", "install"]),
    (["-sc"], {}, ["--shell-completion"]),
    (["--env=1"], {}, ["--env", "no value"]),
    (["--package", "x"], {}, ["--package"]),
    (["cors_allow_origin=[a"], {}, ["cors_allow_origin=[a"]),
    (["cors_allow_origin=[a,'']"], {}, ["cors_allow_origin", "empty"]),
    (["cors_allow_origin=[]", "--cors-allow-origin", ""], {}, ["cors_allow_origin", "empty"]),
    (["--ngrok-authtoken", "x${"], {"NGROK_AUTHTOKEN": "y", "PORT": "z"}, ["port=z"]),
    (["hydra.run.dir=x"], {}, ["hydra.run.dir"]),
    (["serve"], {}, ["serve"]),
    (["-c", "everything"], {}, ["everything", "job"]),
    (["--config-dir", "/nowhere"], {}, ["/nowhere"]),
    (["--config-name", "nothing"], {}, ["nothing"]),
    (["port=${oc.env:NOT_THERE_AT_ALL}"], {}, ["port", "NOT_THERE_AT_ALL"]),
])  # fmt: skip
def test_refusals_are_one_line(argv: list[str], environ: dict[str, str], words: list[str]) -> None:
    message = refusal(*argv, **environ)
    for word in words:
        assert word in message


def test_all_problems_in_one_message() -> None:
    argv = ["--max-batch-sise", "4", "serve", "--port", "x", "max_batch_sise=4", "dtype=float8", "model=smollm3"]
    argv += ["--num-shard=0", "quantize.bits=many", "quantize=gptq", "cors_allow_origin=[a", "--revision", "--resolve"]
    environ = {"JSON_OUTPUT": "yes", "ROPE_FACTOR": "x", "MAX_TOTAL_TOKNES": "1", "LORA_ADAPTERS": "a"}
    assert refusal(*argv, **environ).split("; ") == [
        "unknown option --max-batch-sise (did you mean --max-batch-size?)",
        "unexpected argument serve: options are written --name VALUE or name=VALUE",
        "--revision needs a value",
        "--resolve: says how --cfg prints",
        "give --cfg job",
        "json_output=yes: expected true or false (environment variable JSON_OUTPUT)",
        "lora_adapters=a: adapters are not loaded beside a model",
        "give one as model_id (it names its base model), one server for each (environment variable LORA_ADAPTERS)",
        "cannot read cors_allow_origin=[a: no viable alternative at input '[a'",
        "model=smollm3: there is no such choice",
        "available: default, smollm2 (command line)",
        "port=x: expected a whole number (--port)",
        "unknown option max_batch_sise (did you mean max_batch_size?) (command line)",
        "dtype=float8: expected one of float16, bfloat16, float32, or null (command line)",
        "rope_factor=x: expected a number, or null (environment variable ROPE_FACTOR)",
        "quantize.bits=many: expected a whole number, or null (command line)",
        "num_shard=0: must be at least 1 (--num-shard)",
        "environment variable MAX_TOTAL_TOKNES is not read (did you mean MAX_TOTAL_TOKENS?)",
    ]


def test_problems_of_a_sweep_are_told_with_the_others() -> None:
    with pytest.raises(UsageError, match=r"unknown option --x; .*port=interval"):
        load.combinations(cli.parse(["--x", "-m", "port=interval(1,2)"], {}))
    (first, _) = load.combinations(cli.parse(["--x", "-m", "port=a,b"], {}))
    with pytest.raises(UsageError, match=r"unknown option --x; port=a: expected a whole number"):
        load.composition(first)


def test_a_problem_in_a_file_is_told_with_those_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "deployment").mkdir()
    (tmp_path / "deployment/mine.yaml").write_text("# @package _global_\nport: x")
    (tmp_path / "site.yaml").write_text("defaults: [config, _self_]\nport: x")
    assert refusal(f"--config-dir={tmp_path}", "-cn=site", "model=smollm2").count("port=x") == 1
    message = refusal(f"--config-dir={tmp_path}", "deployment=mine", "--x", "model=none", NUM_SHARD="x")
    assert message == (
        "unknown option --x; model=none: there is no such choice; available: default, smollm2 (command line); "
        "port=x: expected a whole number (deployment/mine.yaml); "
        "num_shard=x: expected a whole number, or null (environment variable NUM_SHARD)"
    )


@pytest.mark.parametrize("name", [*options.TYPES, "quantize", "attention", "max_input_tokens", "lora_adapters"])
def test_an_empty_variable_counts_as_unset(name: str) -> None:
    arguments = cli.parse([], {name.upper(): ""})
    assert (arguments.overrides, arguments.problems, arguments.warnings) == ([], [], [])


@pytest.mark.parametrize(("variable", "meant"), [
    ("MAX_TOTAL_TOKEN", "MAX_TOTAL_TOKENS"), ("NUM_SHARDS", "NUM_SHARD"), ("MAX_INPUT_TOKEN", "MAX_INPUT_TOKENS"),
    ("MAX_CONCURRENT_REQUEST", "MAX_CONCURRENT_REQUESTS"), ("HUGGINGFACE_HUB_TOKEN", "HUGGING_FACE_HUB_TOKEN"),
])  # fmt: skip
def test_a_variable_that_is_almost_one_is_told(variable: str, meant: str) -> None:
    (line,) = cli.parse([], {variable: "8"}).suspects
    assert line == f"environment variable {variable} is not read (did you mean {meant}?)"


@pytest.mark.parametrize("variable", [
    "PORTS", "HOST_NAME", "ROCR_VISIBLE_DEVICES", "PYTORCH_ALLOC_CONF", "OTEL_EXPORTER_OTLP_TRACES_HEADERS",
    "MKL_NUM_THREADS", "NCCL_P2P_DISABLE", "HF_XET_HIGH_PERFORMANCE", "TGI_PORT", "MODEL_NAME", "SHARDED_DATABASE",
    "HF_HUB_ETAG_TIMEOUT", "CUDA_HOME", "NVIDIA_DRIVER_CAPABILITIES", "KUBERNETES_SERVICE_PORT", "MAX_BATCH",
])  # fmt: skip
def test_variables_of_others_are_not(variable: str) -> None:
    assert cli.parse([], {variable: "8"}).suspects == []


@pytest.mark.parametrize(
    ("flag", "show"), [("-h", "summary"), ("--help", "help"), ("-V", "version"), ("--version", "version")]
)
def test_help_needs_no_valid_environment(flag: str, show: str) -> None:
    assert cli.parse([flag], {"PORT": "", "JSON_OUTPUT": "x"}).show == show


@pytest.mark.parametrize("flag", ["-e", "--env"])
def test_report(flag: str) -> None:
    assert cli.parse([flag], {"ENV": "production"}).report
    assert not cli.parse([], {"ENV": "production"}).report


ORIGINS = ["http://a.com", "http://b.com:80,x", "[::1]", "it's", "${x}", "null"]


def test_a_list_by_flag_adds_up_and_each_text_is_one_value() -> None:
    flags = [f"--cors-allow-origin={text}" for text in ORIGINS]
    assert compose(*flags).cors_allow_origin == ORIGINS
    assert compose(*flags, CORS_ALLOW_ORIGIN="x").cors_allow_origin == ORIGINS


@pytest.mark.parametrize("text", ORIGINS)
def test_a_list_from_the_environment_is_one_value(text: str) -> None:
    flag = cli.parse([f"--cors-allow-origin={text}"], {})
    assert cli.parse([], {"CORS_ALLOW_ORIGIN": text}).overrides == flag.overrides


@pytest.mark.parametrize(
    ("argv", "value"),
    [
        (["cors_allow_origin=http://a.com"], ["http://a.com"]),
        (["cors_allow_origin=a,b"], ["a,b"]),
        (["cors_allow_origin=[http://a.com,b]"], ["http://a.com", "b"]),
        (["cors_allow_origin='a'"], ["a"]),
        (["cors_allow_origin=[]"], []),
        (["--cors-allow-origin", "a", "cors_allow_origin=b"], ["b"]),
        (["cors_allow_origin=a", "--cors-allow-origin", "b", "--cors-allow-origin", "c"], ["b", "c"]),
    ],
)
def test_a_list_as_override(argv: list[str], value: list[str]) -> None:
    assert compose(*argv).cors_allow_origin == value


def test_multirun_only_opens_sweeps() -> None:
    arguments = cli.parse(["-m", "max_batch_size=4,8", "model_id=a=b", "batching=glob(l*)", "--revision", "a,b"], {})
    runs = [load.composition(run).config for run in load.combinations(arguments)]
    assert [run.max_batch_size for run in runs] == [4, 8]
    assert {(run.model_id, run.revision, run.max_waiting_tokens) for run in runs} == {("a=b", "a,b", 100)}


def test_combinations_vary_the_last_fastest_and_the_later_mention_counts() -> None:
    arguments = cli.parse(["port=1,2", "-m", "job=bench", "seed=1,2", "job.seed=5,6"], {"PORT": "3"})
    runs = [load.composition(run).config for run in load.combinations(arguments)]
    assert [(run.port, load.instantiate(run.job).seed) for run in runs] == [(1, 5), (1, 6), (2, 5), (2, 6)]
    with pytest.raises(UsageError, match="counts values"):
        load.combinations(cli.parse(["-m", "port=interval(1,2)"], {}))
    assert len(load.combinations(cli.parse(["port=1"], {}))) == 1


SAGEMAKER = {
    "HF_MODEL_ID": "some/model", "HF_MODEL_REVISION": "5e1234", "SM_NUM_GPUS": "4", "HF_MODEL_QUANTIZE": "eetq",
    "HF_MODEL_TRUST_REMOTE_CODE": "true",
}  # fmt: skip


@pytest.mark.parametrize("argv", [["deployment=sagemaker"], ["--deployment", "sagemaker"]])
def test_sagemaker(argv: list[str]) -> None:
    config = compose(*argv, **SAGEMAKER)
    assert (config.model_id, config.revision, config.num_shard) == ("some/model", "5e1234", 4)
    assert (config.port, config.trust_remote_code) == (8080, True)
    assert config.quantize._target_ == "tgi_server.quantize.eetq.Eetq"


def test_sagemaker_names_are_weaker_than_our_own_and_count_nowhere_else() -> None:
    assert compose("deployment=sagemaker", **SAGEMAKER, MODEL_ID="own").model_id == "own"
    assert compose("deployment=sagemaker", "model_id=typed", **SAGEMAKER).model_id == "typed"
    assert compose("deployment=laptop", **SAGEMAKER).num_shard is None
    assert compose("deployment=sagemaker", "deployment=laptop", **SAGEMAKER).num_shard is None


def test_sagemaker_needs_a_model() -> None:
    assert "HF_MODEL_ID" in refusal("deployment=sagemaker")
    assert "SM_NUM_GPUS" in refusal("deployment=sagemaker", "model_id=x", SM_NUM_GPUS="0")


def test_docker_and_kubernetes() -> None:
    arguments = cli.parse([], {"HOSTNAME": "3f2a9c", "PORT": "80", "HUGGINGFACE_HUB_CACHE": "/data"})
    config = load.composition(arguments).config
    assert (config.hostname, config.port, config.huggingface_hub_cache) == ("0.0.0.0", 80, "/data")
    (warning,) = arguments.warnings
    assert "HOSTNAME=3f2a9c is ignored" in warning
    arguments = cli.parse([], {"PORT": "tcp://10.0.0.1:8000", "HOSTNAME": "::1"})
    config = load.composition(arguments).config
    assert (config.hostname, config.port) == ("::1", 3000)
    (warning,) = arguments.warnings
    assert "PORT=tcp://10.0.0.1:8000 is ignored" in warning


def test_show_config() -> None:
    assert cli.parse(["-c", "job"], {}).show == cli.parse(["--cfg=job"], {}).show == "config"

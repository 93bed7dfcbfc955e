"""Every option by flag, override, environment and YAML; who wins; what a start says about them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.integration.listening import listening
from tests.integration.server import free_port
from tests.integration.test_bench import bench
from tgi_server.bench.options import Texts
from tgi_server.config import cli, describe, load, options, parts
from tgi_server.config.arguments import Composition
from tgi_server.config.schema import DType, LogLevel, RopeScaling, ServerConfig, without_variable
from tgi_server.jobs.bench import Bench
from tgi_server.sweep.objective import Objective

TABLE: Mapping[str, tuple[Any, Any]] = {
    "model_id": ("some/model", "package:x/y.gguf"),
    "revision": ("5e1234", "refs/pr/2"),
    "trust_remote_code": (True, False),
    "dtype": (DType.bfloat16, DType.float16),
    "tokenizer_config_path": ("~/a b.json", "it's.json"),
    "huggingface_hub_cache": ("/data", "/a=b"),
    "weights_cache_override": ("/weights,2", "/w{eights}"),
    "conversion_cache": ("/ü 漢", '/"quoted"'),
    "sharded": (True, False),
    "num_shard": (2, 3),
    "shard_uds_path": ("/tmp/a", "/tmp/b"),
    "speculate": (2, 3),
    "enable_cuda_graphs": (True, False),
    "disable_custom_kernels": (True, False),
    "cuda_memory_fraction": (0.5, 0.25),
    "preallocate_cache": (True, False),
    "master_addr": ("10.0.0.1", "::1"),
    "master_port": (29501, 29502),
    "num_nodes": (2, 4),
    "node_rank": (1, 3),
    "node_port": (29600, 29700),
    "node_token": ("0123456789abcdef", "another=token,{of} nodes"),
    "node_token_file": ("/run/node-token", "token.txt"),
    "node_timeout": (5.0, 20.0),
    "node_start_timeout": (60.0, 1200.0),
    "max_concurrent_requests": (64, 65),
    "max_input_length": (100, 101),
    "max_total_tokens": (200, 201),
    "waiting_served_ratio": (0.3, 2.0),
    "max_batch_prefill_tokens": (300, 301),
    "max_batch_total_tokens": (4000, 4001),
    "max_waiting_tokens": (5, 6),
    "max_batch_size": (8, 9),
    "prefill_chunk_tokens": (128, 256),
    "prefix_caching": (True, False),
    "validation_workers": (3, 4),
    "max_best_of": (5, 6),
    "max_stop_sequences": (7, 8),
    "max_top_n_tokens": (9, 10),
    "payload_limit": (1000, 1001),
    "reasoning": (False, True),
    "messages_api_enabled": (True, False),
    "watermark_gamma": (0.25, 0.75),
    "watermark_delta": (1.5, 3.0),
    "rope_scaling": (RopeScaling.linear, RopeScaling.dynamic),
    "rope_factor": (2.0, 4.0),
    "hostname": ("127.0.0.1", "0.0.0.0"),
    "port": (8080, 8081),
    "cors_allow_origin": (["http://a.com"], ["*"]),
    "api_key": ("sk-1=", "sk_2"),
    "api_key_file": ("/run/keys", "keys.txt"),
    "ngrok": (True, False),
    "ngrok_authtoken": ("to${ken", "token#2"),
    "ngrok_edge": ("edge", "null"),
    "shutdown_timeout": (10.0, 20.0),
    "receive_timeout": (30.0, 40.0),
    "send_timeout": (50.0, 70.0),
    "max_client_connections": (100, 200),
    "json_output": (True, False),
    "otlp_endpoint": ("http://a:4317", "http://b:4317"),
    "otlp_service_name": ("a", "b.c"),
    "log_level": (LogLevel.debug, LogLevel.warn),
    "log_levels": (["router=debug"], ["tgi_server.engine=warn"]),
    "record_traffic": ("traffic.jsonl", "b.jsonl"),
    "compute_type": ("1-fast", "2-slow"),
}
"""Two values of each option."""
FIELDS: Mapping[str, tuple[Any, Any]] = {
    "target": ("http://a:8000", "http://b:8000"),
    "clients": ("1,8", "32"),
    "request_rate": (5.0, 6.0),
    "traffic": ("chat", "agent"),
    "traffic_speed": (0.5, 2.0),
    "requests": (10, 11),
    "duration": (1.0, 2.0),
    "warmup": (0, 1),
    "time_limit": (30.0, 40.0),
    "prompts": ("a.txt", "b.txt"),
    "workload": (Texts.ordinary, Texts.repetitive),
    "prompt_tokens": ("64-256", "80"),
    "new_tokens": (16, 17),
    "temperature": (0.5, 1.0),
    "top_k": (5, 50),
    "top_p": (0.5, 0.95),
    "typical_p": (0.5, 0.9),
    "min_p": (0.05, 0.1),
    "repetition_penalty": (1.2, 1.3),
    "frequency_penalty": (0.5, -0.5),
    "presence_penalty": (0.5, -0.5),
    "watermark": (True, False),
    "response_format": ('{"type": "json_object"}', '{"type": "regex", "value": "[a-z]*"}'),
    "sampling_seed": (3, 4),
    "seed": (1, 2),
    "output": ("a.json", "b.json"),
    "repeats": (2, 3),
    "record": ("a", "b"),
    "objective": (Objective.latency, Objective.goodput),
    "simulate": (False, True),
}
"""Two values of each field of job=bench; `job.` stands before their names in the configuration."""
SPELLINGS = ("group", "deployment", "environment", "override", "flag")
"""From the weakest to the strongest; the last two are equal, the later one wins."""


def text(value: Any) -> str:
    """As an operator writes it."""
    return value[0] if isinstance(value, list) else describe.shown(value)


def kept(value: Any) -> Any:
    """As YAML holds it."""
    if isinstance(value, str):
        return value.replace("${", r"\${")
    return value.name if isinstance(value, Enum) else value


class Site:
    """A directory of an operator's files, and compositions with every option given in some spellings."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._composed: dict[tuple[tuple[str, int], ...], Composition] = {}

    def composed(self, **columns: int) -> Composition:
        """Every option set by each spelling to its value of that column in the tables."""
        key = tuple(columns.items())
        if key not in self._composed:
            self._composed[key] = self._compose(columns)
        return self._composed[key]

    def file(self, group: str) -> str:
        return str(self._directory / group / "all.yaml")

    def _compose(self, columns: Mapping[str, int]) -> Composition:
        argv, environ = ["--config-dir", str(self._directory), "job=bench"], {}
        for spelling, column in columns.items():
            values = {name: row[column] for name, row in TABLE.items()}
            fields = {name: row[column] for name, row in FIELDS.items()}
            match spelling:
                case "group" | "deployment":
                    folder = {"group": "batching"}.get(spelling, spelling)
                    job = {name: kept(value) for name, value in fields.items()}
                    self._write(folder, {**{name: kept(value) for name, value in values.items()}, "job": job})
                    argv.append(f"{folder}=all")
                case "environment":
                    environ = {name.upper(): text(value) for name, value in (values | fields).items()}
                case "override":
                    quoted = {name: text(value) for name, value in (values | fields).items()}
                    quoted |= {"ngrok_authtoken": r"'to\${ken'" if not column else "token#2"}
                    quoted |= {"ngrok_edge": "'null'" if column else "edge"}
                    argv += [f"{name}={word}" for name, word in quoted.items()]
                case "full override":
                    argv += [f"job.{name}={text(value)}" for name, value in fields.items()]
                case "flag":
                    argv += [f"--{name.replace('_', '-')}={text(value)}" for name, value in (values | fields).items()]
        return load.composition(cli.parse(argv, environ))

    def _write(self, folder: str, values: Mapping[str, Any]) -> None:
        path = Path(self.file(folder))
        path.parent.mkdir(exist_ok=True)
        path.write_text("# @package _global_\n" + yaml.safe_dump(dict(values), default_style="'"))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return Site(tmp_path_factory.mktemp("site"))


def value_of(run: Composition, name: str) -> Any:
    """Of an option, or of a field of the job."""
    return getattr(run.config if name in TABLE else load.instantiate(run.config.job), name)


def default(name: str) -> Any:
    return getattr(ServerConfig() if name in TABLE else Bench(), name)


def test_the_table_is_complete() -> None:
    assert set(TABLE) == set(options.TYPES)
    assert set(FIELDS) == set(parts.fields_of(parts.choices("job")["bench"]))
    for name, (one, other) in {**TABLE, **FIELDS}.items():
        assert one != default(name) and one != other


@pytest.mark.parametrize("name", [*TABLE, *FIELDS])
def test_each_spelling_reaches_the_configuration(site: Site, name: str) -> None:
    flag = f"--{name.replace('_', '-')}"
    origins = {
        "group": f"group file {site.file('batching')}", "deployment": f"deployment file {site.file('deployment')}",
        "environment": f"environment variable {name.upper()}", "override": "command line", "flag": flag,
        "full override": "command line",
    }  # fmt: skip
    for column in (0, 1):
        for spelling in (*SPELLINGS, *(["full override"] if name in FIELDS else [])):
            run = site.composed(**{spelling: column})
            if spelling == "environment" and (name in without_variable() or name in FIELDS):
                assert value_of(run, name) == default(name)
            else:
                assert value_of(run, name) == {**TABLE, **FIELDS}[name][column], spelling
                assert run.origins[name if name in TABLE else f"job.{name}"] == origins[spelling]


@pytest.mark.parametrize("name", [*TABLE, *FIELDS])
def test_the_stronger_wins(site: Site, name: str) -> None:
    for number, strongest in enumerate(SPELLINGS[1:], 1):
        for column in (0, 1):
            weaker = dict.fromkeys(SPELLINGS[:number], 1 - column)
            run = site.composed(**weaker, **{strongest: column})
            silent = strongest == "environment" and (name in without_variable() or name in FIELDS)
            assert value_of(run, name) == {**TABLE, **FIELDS}[name][1 - column if silent else column], strongest


@pytest.mark.parametrize(("part", "choice"), [("quantize", "eetq"), ("attention", "sdpa")])
def test_a_choice_has_the_same_spellings(tmp_path: Path, part: str, choice: str) -> None:
    (tmp_path / "deployment").mkdir()
    (tmp_path / "deployment/mine.yaml").write_text(f"# @package _global_\ndefaults: [override /{part}: {choice}]")
    directory, expected = ["--config-dir", str(tmp_path)], getattr(load.compose([f"{part}={choice}"]), part)
    default = getattr(ServerConfig(), part)

    def chosen(*argv: str, **environ: str) -> Any:
        return getattr(load.composition(cli.parse([*directory, *argv], environ)).config, part)

    other = {"quantize": "none", "attention": "auto"}[part]
    assert chosen(f"--{part}", choice) == chosen(f"{part}={choice}") == chosen("deployment=mine") == expected
    assert chosen(**{part.upper(): choice}) == expected
    assert chosen("deployment=mine", **{part.upper(): other}) == default
    assert chosen("deployment=mine", f"--{part}={choice}", **{part.upper(): other}) == expected


def run(*argv: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """The launcher, to its end."""
    command = [sys.executable, "-m", "tgi_server", *argv]
    return subprocess.run(command, env=os.environ | environ, capture_output=True, text=True, timeout=60)


def test_shown_by_the_command() -> None:
    done = run("--cfg", "job", "deployment=laptop", "-p", "81", MODEL_ID="5e1234", NGROK_AUTHTOKEN="s3cret")
    assert done.returncode == 0, done.stderr
    assert "port: 81  # --port\n" in done.stdout
    assert "model_id: '5e1234'  # environment variable MODEL_ID\n" in done.stdout
    assert "max_batch_size: 4  # deployment file conf/deployment/laptop.yaml\n" in done.stdout
    assert "s3cret" not in done.stdout


HYDRA: list[tuple[list[str], list[str]]] = [
    (["--cfg", "hydra"], ["output_subdir: null", "deployment: laptop"]),
    (["-c", "all", "--resolve"], ["max_batch_size: 4", "ngrok_authtoken: '***'"]),
    (["--info", "defaults"], ["| deployment/laptop ", "| model/smollm2 "]),
    (["-i"], ["Defaults Tree", "Config search path"]),
    (["--info=searchpath"], ["Config search path", "/my site"]),
]


@pytest.mark.parametrize(("argv", "words"), HYDRA)
def test_hydra_answers_for_itself(tmp_path: Path, argv: list[str], words: list[str]) -> None:
    site = tmp_path / "my site"
    site.mkdir()
    done = run(*argv, "deployment=laptop", "--config-dir", str(site), "--ngrok-authtoken=s3cret", "api_key=s3cret")
    assert done.returncode == 0, done.stderr
    for word in words:
        assert word in done.stdout
    assert "s3cret" not in done.stdout
    assert list(site.iterdir()) == []


def test_hydra_is_not_asked_about_what_cannot_be_composed() -> None:
    done = run("--cfg", "all", "port=x")
    assert (done.returncode, done.stderr) == (2, "Error: port=x: expected a whole number (command line)\n")


def test_shell_completion() -> None:
    assert "complete " in run("-sc", "install=bash").stdout
    assert run("-sc", "install=bash").stdout.endswith(" text-generation-launcher\n")
    line = "text-generation-launcher deployment=lap"
    done = run("--shell-completion", "query=bash", COMP_LINE=line, COMP_POINT=str(len(line)), PORT="x")
    assert done.stdout.split() == ["deployment=laptop"]


def test_multirun_shows_every_combination() -> None:
    done = run("-m", "--cfg", "job", "max_batch_size=4,8", "batching=latency,throughput")
    shown = list(yaml.safe_load_all(done.stdout))
    assert [(one["max_batch_size"], one["max_waiting_tokens"]) for one in shown] == [(4, 100), (4, 5), (8, 100), (8, 5)]


async def test_multirun_runs_every_combination(tmp_path: Path) -> None:
    async with listening() as (router, port):
        status, out, err = await bench(
            "--multirun", f"target=http://127.0.0.1:{port}", "requests=2", "warmup=0", "new_tokens=2,3",
            f"output={tmp_path}/${{new_tokens}}.json", f"record={tmp_path}/sweep",
        )  # fmt: skip
        assert router.metric("tgi_request_success") == 4
    assert status == 0, err
    assert [line.split()[:3] for line in out.splitlines()[:3]] == [
        ["new_tokens", "times", "tokens/s"], ["1", "2", "1"], ["2", "3", "1"],
    ]  # fmt: skip
    for number, new_tokens in ((1, 2), (2, 3)):
        (point,) = json.loads((tmp_path / f"{new_tokens}.json").read_text())["points"]
        assert (point["number"], point["settings"]) == (number, {"new_tokens": str(new_tokens)})
        assert [trial["summary"]["new_tokens"] for trial in point["trials"]] == [new_tokens]


def test_multirun_checks_all_before_the_first_starts() -> None:
    done = run("-m", "job=bench", "target=http://127.0.0.1:1", "new_tokens=2,0")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "Error: new_tokens=0: must be at least 1 (command line)\n"
    done = run("-m", "max_batch_size=1,2")
    assert done.returncode == 2 and "job=serve" in done.stderr


def start(*argv: str, **environ: str) -> str:
    """What a start logs, up to a model that is not there."""
    own = ["model_id=/nowhere", f"shard_uds_path=/tmp/test-options-{os.getpid()}", f"master_port={free_port()}"]
    done = run(*own, *argv, **environ)
    assert done.returncode == 1 and "/nowhere" in done.stderr, done.stderr
    return done.stdout


def test_docker_like() -> None:
    port = str(free_port())
    log = start(HOSTNAME="3f2a9c", PORT=port, HUGGINGFACE_HUB_CACHE="/data")
    assert "WARN launcher: environment variable HOSTNAME=3f2a9c is ignored: it is no address of this machine" in log
    assert f"port={port} (environment variable PORT)" in log
    assert "huggingface_hub_cache=/data (environment variable HUGGINGFACE_HUB_CACHE)" in log
    assert "hostname=" not in log


def test_a_start_tells_what_changes_nothing_and_logs_as_the_filter_says() -> None:
    given = {"USAGE_STATS": "off", "MAX_TOTAL_TOKEN": "9", "LOG_LEVEL": "error,text_generation_launcher=WARN,h2=off"}
    lines = start(f"--port={free_port()}", "--max-input-tokens=100", **given).splitlines()
    assert [line.partition(" WARN launcher: ")[2] for line in lines] == [
        f"environment variable LOG_LEVEL={given['LOG_LEVEL']}: h2=off is left out, neither a level nor a part of this "
        "server",
        "environment variable USAGE_STATS=off: changes nothing, this server sends no statistics and no crash reports",
        "environment variable MAX_TOTAL_TOKEN is not read (did you mean MAX_TOTAL_TOKENS?)",
    ]


def test_kubernetes_like(tmp_path: Path) -> None:
    port = free_port()
    (tmp_path / "deployment").mkdir()
    (tmp_path / "deployment/mine.yaml").write_text(f"# @package _global_\nport: {port}")
    log = start("deployment=mine", f"--config-dir={tmp_path}", PORT="tcp://10.0.0.1:8000", HOSTNAME="::1")
    assert "WARN launcher: environment variable PORT=tcp://10.0.0.1:8000 is ignored: it is the address of a Kube" in log
    assert f"port={port} (deployment file" in log and "hostname=::1 (environment variable HOSTNAME)" in log


def test_the_report_comes_before_the_start() -> None:
    log = start("--env", f"port={free_port()}", "deployment=laptop", HF_TOKEN="s3cret", API_KEY="s3cret")
    assert "s3cret" not in log
    for words in (
        "versions: tgi_server ", ", torch 2", "build: commit ", "processor can: ", "memory: ", "CUDA: ", "driver: ",
        "GPU: ", "kernels: ", "HF_TOKEN=***", "option max_batch_size=4 (deployment file conf/deployment/laptop.yaml)",
        "option api_key=*** (environment variable API_KEY)", "option max_input_length=1024 (default)",
    ):  # fmt: skip
        assert words in log
    assert "kernels: unknown" not in log


def test_the_report_needs_a_server_of_ours() -> None:
    done = run("--env", "job=bench", "target=http://127.0.0.1:1")
    assert done.returncode == 2 and "--env" in done.stderr


def test_the_command_is_the_launcher() -> None:
    code = (
        "import sys, tomllib\n"
        "from importlib import import_module\n"
        "module, name = tomllib.load(open('pyproject.toml', 'rb'))['project']['scripts']"
        "['text-generation-launcher'].split(':')\n"
        "sys.exit(getattr(import_module(module), name)(['--version']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout.split()[0]) == (0, "tgi_server")


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    command = f"'{sys.executable}' -m tgi_server --help | true"
    assert subprocess.run(["bash", "-c", command], capture_output=True, text=True).stderr == ""


def test_output_that_cannot_show_a_name_is_no_error() -> None:
    shown = run("--cfg", "job", MODEL_ID="モデル", PYTHONIOENCODING="ascii", LC_ALL="C")
    assert shown.returncode == 0 and shown.stderr == ""
    assert r"model_id: \u30e2\u30c7\u30eb" in shown.stdout


@pytest.mark.parametrize(("argv", "environ", "status", "words"), [
    (["port=81"], {}, 0, []),
    (["max_input_length=4000"], {}, 1,
     ["Error: max_input_length=4000: leaves no room", "; set max_input_length to at most 2047 (command line)\n"]),
    (["--dtype=float16", "quantize=eetq", "validation_workers=0"], {}, 1, ["validation_workers=0", "; dtype=float16"]),
    ([], {"ATTENTION": "paged", "MAX_TOTAL_TOKNES": "9"}, 0,
     ["Warning: environment variable ATTENTION=paged: changes", "Warning: environment variable MAX_TOTAL_TOKNES"]),
    (["job=bench", "port=0"], {}, 2, ["Error: port=0: to be measured the server needs a port that is known before\n"]),
    (["job=bench", "target=http://x", "num_shard=2"], {}, 2, ["num_shard=2: has no effect on a server that runs"]),
    (["job=bench", "target=http://x"], {"MAX_INPUT_LENGTH": "4000"}, 0, []),
    (["job=quantize", "job.out=/nowhere", "method=awq", "bits=3"], {}, 1, ["Error: bits=3: awq works with 4 bits"]),
    (["-m", "max_input_length=100,4000"], {}, 1, ["max_input_length=4000"]),
])  # fmt: skip
def test_what_is_shown_is_checked_as_a_start_does(
    argv: list[str], environ: dict[str, str], status: int, words: list[str]
) -> None:
    done = run("--cfg", "job", *argv, **environ)
    assert done.returncode == status, done.stderr
    (*_, last) = yaml.safe_load_all(done.stdout)
    assert next(iter(last)) == "model_id" and "job" in last
    assert bool(done.stderr) == bool(words)
    for word in words:
        assert word in done.stderr

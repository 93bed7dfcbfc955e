"""Files for systemd, Docker and Kubernetes: they read, and name what the server has."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import yaml

from tests.conf.manifests import kind
from tests.documented import DOCUMENT
from tgi_server.config import cli, load
from tgi_server.config.schema import ServerConfig, documented_options
from tgi_server.launcher import supervise

ROOT = Path(__file__).parents[2]
SYSTEMD, DOCKER = (ROOT / "deploy" / name for name in ("systemd", "docker"))
UNIT = SYSTEMD / "tgi-server.service"
VARIABLES = {field.name.upper() for field in documented_options()} | {
    "HOME", "XDG_CACHE_HOME", "PYTHONUNBUFFERED", "HF_TOKEN",
}  # fmt: skip
"""The server's own, and those that Python and libraries read."""
LONGEST_STOP = ServerConfig().shutdown_timeout + supervise._MARGIN + supervise._GRACE
"""Seconds from SIGTERM to the end of the launcher, at most."""
HARDENED = {
    "NoNewPrivileges": "yes", "ProtectSystem": "strict", "PrivateTmp": "yes", "DynamicUser": "yes", "KillMode": "mixed",
    "Restart": "on-failure", "RuntimeDirectoryMode": "0700", "UMask": "0077", "StateDirectory": "tgi-server",
}  # fmt: skip


def composed(arguments: Sequence[str], environment: Mapping[str, str], config_dir: Path | None = None) -> ServerConfig:
    """What the server makes of these, of which all names must exist."""
    words = [str(config_dir) if word == "/etc/tgi-server" else word for word in arguments]
    parsed = cli.parse(words, environment)
    config = load.composition(parsed).config
    assert not parsed.suspects and not parsed.warnings
    return config


def unit() -> list[tuple[str, str]]:
    lines = [line.strip() for line in UNIT.read_text().splitlines()]
    assert [line for line in lines if line.startswith("[")] == ["[Unit]", "[Service]", "[Install]"]
    settings = [line.partition("=") for line in lines if line and not line.startswith(("#", "["))]
    assert all(sign for _, sign, _ in settings)
    return [(name, value) for name, _, value in settings]


def test_the_service_is_a_configuration() -> None:
    settings = unit()
    command = shlex.split(dict(settings)["ExecStart"])
    assert command[:3] == ["/opt/tgi-server/.venv/bin/python", "-m", "tgi_server"]
    environment = dict(value.split("=", 1) for name, value in settings if name == "Environment")
    assert environment.keys() <= VARIABLES
    config = composed(command[3:], environment, SYSTEMD)
    assert (config.json_output, config.hostname) == (True, "127.0.0.1")
    assert config.shard_uds_path == "%t/tgi-server/shard"


def test_the_service_is_confined_and_has_time_to_stop() -> None:
    settings = dict(unit())
    assert HARDENED.items() <= settings.items()
    assert LONGEST_STOP < float(settings["TimeoutStopSec"]) <= LONGEST_STOP + 30


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_systemd_takes_the_service(tmp_path: Path) -> None:
    copy = tmp_path / UNIT.name
    text = UNIT.read_text()
    copy.write_text(
        text.replace("/opt/tgi-server/.venv/bin/python", sys.executable).replace("/opt/tgi-server", str(ROOT))
    )
    command = ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", str(copy)]
    checked = subprocess.run(command, capture_output=True, text=True, timeout=60)
    if "unrecognized option" in checked.stderr:
        pytest.skip("systemd is older than 250")
    assert (checked.returncode, checked.stderr) == (0, "")


def instructions() -> list[tuple[str, str]]:
    text = "\n".join(line for line in (DOCKER / "Dockerfile").read_text().splitlines() if not line.startswith("#"))
    lines = [line for line in re.sub(r"\\\n\s*", "", text).splitlines() if line.strip()]
    return [(word, rest.strip()) for word, _, rest in (line.strip().partition(" ") for line in lines)]


def test_the_image_is_made_by_the_two_commands_of_the_readme() -> None:
    made = instructions()
    commands = [rest for word, rest in made if word == "RUN"]
    assert "./scripts/serve --version" in commands and "./scripts/test" in commands
    readme = (ROOT / "README.md").read_text()
    assert "./scripts/serve " in readme and "./scripts/test " in readme
    sources = [name for word, rest in made if word == "COPY" for name in rest.split()[:-1]]
    assert [name for name in sources if not (ROOT / name).exists()] == []
    called = {name for script in ("serve", "test", "check") for name in re.findall(r"scripts/([a-z-]+)", _code(script))}
    assert {f"scripts/{name}" for name in called} | {"scripts/env"} <= {*sources}
    needed = re.search(r'readme = "(.*)"', (ROOT / "pyproject.toml").read_text())
    assert needed and needed[1] in sources


def _code(script: str) -> str:
    lines = (ROOT / "scripts" / script).read_text().splitlines()
    return "\n".join(line for line in lines if not line.startswith("#"))


def test_the_image_serves_as_another_user_than_root() -> None:
    made = instructions()
    (entry,) = (yaml.safe_load(rest) for word, rest in made if word == "ENTRYPOINT")
    assert entry[:3] == ["/app/.venv/bin/python", "-m", "tgi_server"]
    environment = dict(pair.split("=", 1) for word, rest in made if word == "ENV" for pair in shlex.split(rest))
    assert environment.keys() <= VARIABLES
    config = composed([*entry[3:], "--model-id", "a/b"], environment)
    assert dict(made)["EXPOSE"] == str(config.port)
    assert config.huggingface_hub_cache == dict(made)["VOLUME"] == "/data"
    assert Path(config.shard_uds_path).parents[1] == Path("/tmp"), "its own directory is made"
    stages = [index for index, (word, _) in enumerate(made) if word == "FROM"]
    users = [rest for word, rest in made[: stages[1]] if word == "USER"]
    assert users == ["10001"] and made[-1] == ("FROM", "server")
    health = dict(made)["HEALTHCHECK"]
    assert f"'{config.port}'" in health and "/livez" in DOCUMENT["paths"] and "/livez" in health


def test_compose_serves_what_the_image_can() -> None:
    (service,) = yaml.safe_load((DOCKER / "compose.yaml").read_text())["services"].values()
    assert (DOCKER / service["build"]["context"] / service["build"]["dockerfile"]).resolve() == DOCKER / "Dockerfile"
    assert service["environment"].keys() <= VARIABLES
    config = composed(["--deployment", "docker", *service["command"]], {})
    assert service["ports"][0].endswith(f":{config.port}")
    assert config.api_key_file == "/run/secrets/" + service["secrets"][0]
    assert service["stop_grace_period"] == "2m" and LONGEST_STOP < 120


def test_keys_get_neither_into_the_repository_nor_into_images() -> None:
    (secret,) = yaml.safe_load((DOCKER / "compose.yaml").read_text())["secrets"].values()
    path = (DOCKER / secret["file"]).relative_to(ROOT)
    assert all(str(path) in (ROOT / name).read_text().splitlines() for name in (".gitignore", ".dockerignore"))


def test_the_pod_serves_what_the_image_can() -> None:
    pod = kind("Deployment")["spec"]["template"]
    (container,) = pod["spec"]["containers"]
    environment = {each["name"]: each.get("value", "x") for each in container["env"]}
    assert environment.keys() <= VARIABLES
    config = composed(["--deployment", "docker", *container["args"]], environment)
    (port,) = container["ports"]
    assert port["containerPort"] == config.port > 1023, "a user that is not root may not have it otherwise"
    assert pod["metadata"]["annotations"]["prometheus.io/port"] == str(config.port)
    mounted = {mount["mountPath"] for mount in container["volumeMounts"]}
    assert {"/dev/shm", "/tmp", "/data"} <= mounted
    assert str(Path(config.shard_uds_path).parents[1]) in mounted, "its own directory is made"
    assert config.api_key_file is not None and str(Path(config.api_key_file).parent) in mounted
    assert {mount["name"] for mount in container["volumeMounts"]} == {v["name"] for v in pod["spec"]["volumes"]}
    command, pause = container["lifecycle"]["preStop"]["exec"]["command"]
    stop = LONGEST_STOP + float(pause)
    assert command == "sleep" and stop < pod["spec"]["terminationGracePeriodSeconds"] <= stop + 30
    assert pod["spec"]["securityContext"]["runAsUser"] == 10001


@pytest.mark.parametrize(
    ("probe", "path"), [("startupProbe", "/startupz"), ("readinessProbe", "/readyz"), ("livenessProbe", "/livez")]
)
def test_probes_ask_what_there_is(probe: str, path: str) -> None:
    (container,) = kind("Deployment")["spec"]["template"]["spec"]["containers"]
    assert container[probe]["httpGet"] == {"path": path, "port": container["ports"][0]["name"]}
    assert "get" in DOCUMENT["paths"][path]


def test_who_is_selected_is_there() -> None:
    deployment, service, monitor = kind("Deployment"), kind("Service"), kind("PodMonitor")
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    selectors = [service["spec"]["selector"], deployment["spec"]["selector"]["matchLabels"]]
    selectors += [
        kind("NetworkPolicy")["spec"]["podSelector"]["matchLabels"],
    ]
    assert all(selector.items() <= labels.items() for selector in selectors)
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    assert endpoint["port"] == service["spec"]["ports"][0]["targetPort"] == container["ports"][0]["name"]
    assert endpoint["path"] in DOCUMENT["paths"]


def test_all_that_scrapes_calls_the_job_as_the_alerts_do() -> None:
    prometheus = ROOT / "deploy/prometheus"
    (job,) = yaml.safe_load((prometheus / "prometheus.yml").read_text())["scrape_configs"]
    (endpoint,) = kind("PodMonitor")["spec"]["podMetricsEndpoints"]
    asked = {*re.findall(r'job="(\w+)"', (prometheus / "alerts.yml").read_text())}
    assert asked == {job["job_name"]}
    assert endpoint["relabelings"] == [{"targetLabel": "job", "replacement": job["job_name"]}]

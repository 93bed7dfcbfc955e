"""The files for Kubernetes by the description of its API, and what belongs together in them."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from jsonschema import ValidationError

from tests.conf.manifests import FILES, KUBERNETES, documents, kind, pods, validator
from tests.conf.test_deploy import VARIABLES, composed
from tests.queries import selectors
from tgi_server.config.schema import ServerConfig
from tgi_server.telemetry.names import FAMILIES

REPLICAS, NODES = "replicas.yaml", "nodes.yaml"


@pytest.mark.parametrize("file", FILES)
def test_every_document_is_what_its_kind_has_to_be(file: str) -> None:
    for document in documents(file):
        validator(document["kind"]).validate(document)


@pytest.mark.parametrize(
    ("name", "path", "value"),
    [
        ("Deployment", ["spec", "strategie"], {}),
        ("Deployment", ["spec", "template", "spec", "containers", 0, "ports", 0, "containerPort"], "8080"),
        ("Deployment", ["spec", "template", "spec", "topologySpreadConstraints", 0, "maxSkew"], None),
        ("PodDisruptionBudget", ["spec", "maxUnavailable"], [1]),
        ("ScaledObject", ["spec", "triggers", 0, "metadata", "threshold"], 64),
        ("ScaledObject", ["spec", "advanced", "horizontalPodAutoscalerConfig", "behavior", "scaleup"], {}),
    ],
)
def test_mistakes_are_found(name: str, path: list[Any], value: Any) -> None:
    document = copy.deepcopy(kind(name, REPLICAS))
    inner = document
    for key in path[:-1]:
        inner = inner[key]
    if value is None:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    with pytest.raises(ValidationError):
        validator(name).validate(document)


def test_replicas_are_the_pod_of_one() -> None:
    """But for how many there are, where they run and what they share."""
    one, many = (kind("Deployment", file) for file in ("server.yaml", REPLICAS))
    assert one["metadata"] == many["metadata"] and one["spec"]["selector"] == many["spec"]["selector"]
    assert "replicas" not in many["spec"], "the autoscaler's number would be set back with each apply"
    assert one["spec"]["template"]["metadata"] == many["spec"]["template"]["metadata"]
    pods = [each["spec"]["template"]["spec"] for each in (one, many)]
    assert pods[0]["containers"] == pods[1]["containers"]
    different = {key for key in {**pods[0], **pods[1]} if pods[0].get(key) != pods[1].get(key)}
    assert different == {"topologySpreadConstraints", "volumes"}
    claim = kind("PersistentVolumeClaim", REPLICAS)
    volumes = {each["name"]: each for each in pods[1]["volumes"]}
    assert volumes["models"]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    assert [volume for volume in pods[0]["volumes"] if volume["name"] != "models"] == [
        volume for volume in pods[1]["volumes"] if volume["name"] != "models"
    ]


def test_a_rollout_and_an_emptied_machine_leave_replicas() -> None:
    deployment, budget = kind("Deployment", REPLICAS), kind("PodDisruptionBudget", REPLICAS)
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert deployment["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
    assert budget["spec"]["selector"]["matchLabels"].items() <= labels.items()
    assert budget["spec"]["maxUnavailable"] < kind("ScaledObject", REPLICAS)["spec"]["minReplicaCount"]
    for spread in deployment["spec"]["template"]["spec"]["topologySpreadConstraints"]:
        assert spread["labelSelector"]["matchLabels"].items() <= labels.items()


def test_the_number_of_replicas_follows_our_gauges() -> None:
    deployment, scaled = kind("Deployment", REPLICAS), kind("ScaledObject", REPLICAS)["spec"]
    target = scaled["scaleTargetRef"]
    assert target == {
        "apiVersion": deployment["apiVersion"], "kind": "Deployment", "name": deployment["metadata"]["name"],
    }  # fmt: skip
    assert 2 <= scaled["minReplicaCount"] <= scaled["fallback"]["replicas"] <= scaled["maxReplicaCount"]
    for trigger in scaled["triggers"]:
        read = list(selectors(trigger["metadata"]["query"]))
        assert read and all(FAMILIES[name].kind == "gauge" for name, _ in read)
        pods = [re.fullmatch(labels["pod"], f"{target['name']}-5d9c7b-x2x4z") for _, labels in read]
        assert all(pods) and all(labels["job"] == "tgi" for _, labels in read)
    under_way = {name for name, _ in selectors(scaled["triggers"][0]["metadata"]["query"])}
    assert under_way == {"tgi_queue_size", "tgi_batch_current_size"}
    assert float(scaled["triggers"][0]["metadata"]["threshold"]) == ServerConfig().max_concurrent_requests / 2


def test_nodes_are_those_of_a_group() -> None:
    """What LeaderWorkerSet tells each pod is what the server asks for."""
    template = kind("LeaderWorkerSet", NODES)["spec"]["leaderWorkerTemplate"]
    told = {
        "leaderTemplate": {"LWS_GROUP_SIZE": "2", "LWS_WORKER_INDEX": "0", "POD_IP": "10.0.0.7"},
        "workerTemplate": {"LWS_GROUP_SIZE": "2", "LWS_WORKER_INDEX": "1", "LWS_LEADER_ADDRESS": "tgi-nodes-0.there"},
    }
    for rank, (name, variables) in enumerate(told.items()):
        pod = template[name]["spec"]
        (container,) = pod["containers"]
        words = [_filled(word, variables) for word in container["args"]]
        environment = {each["name"]: each.get("value", "x") for each in container["env"] if each["name"] != "POD_IP"}
        assert environment.keys() <= VARIABLES
        config = composed(["--deployment", "docker", *words], environment)
        assert (config.num_nodes, config.node_rank) == (template["size"], rank)
        assert config.master_addr == variables.get("LWS_LEADER_ADDRESS", variables.get("POD_IP"))
        mounted = {mount["mountPath"] for mount in container["volumeMounts"]}
        assert config.node_token_file is not None and str(Path(config.node_token_file).parent) in mounted
        assert {mount["name"] for mount in container["volumeMounts"]} <= {volume["name"] for volume in pod["volumes"]}
        assert ("readinessProbe" in container) is (rank == 0), "only node 0 has HTTP"


def _filled(word: str, variables: Mapping[str, str]) -> str:
    """An argument as Kubernetes hands it over."""
    return re.sub(r"\$\((\w+)\)", lambda found: variables[found[1]], word)


def test_a_group_is_one_server() -> None:
    spec = kind("LeaderWorkerSet", NODES)["spec"]
    leader, worker = (spec["leaderWorkerTemplate"][name] for name in ("leaderTemplate", "workerTemplate"))
    assert spec["leaderWorkerTemplate"]["restartPolicy"] == "RecreateGroupOnPodRestart"
    one = kind("Deployment", "server.yaml")["spec"]["template"]["spec"]
    for name in ("securityContext", "terminationGracePeriodSeconds", "automountServiceAccountToken"):
        assert one[name] == leader["spec"][name] == worker["spec"][name]
    (single,), (first,), (other,) = (each["containers"] for each in (one, leader["spec"], worker["spec"]))
    for name in ("startupProbe", "readinessProbe", "livenessProbe", "lifecycle", "ports"):
        assert single[name] == first[name]
    for name in ("image", "securityContext", "resources", "lifecycle"):
        assert single[name] == first[name] == other[name]
    assert worker["metadata"]["labels"]["app"] == leader["metadata"]["labels"]["app"]
    names = [document["metadata"]["name"] for document in documents(NODES) if document["kind"] == "Service"]
    assert kind("LeaderWorkerSet", NODES)["metadata"]["name"] not in names, (
        "LeaderWorkerSet makes a service of its name"
    )
    service, policy, budget = (
        kind(name, NODES)["spec"] for name in ("Service", "NetworkPolicy", "PodDisruptionBudget")
    )
    assert service["selector"].items() <= leader["metadata"]["labels"].items()
    assert not service["selector"].items() <= worker["metadata"]["labels"].items()
    for template in (leader, worker):
        for selector in (policy["podSelector"], budget["selector"]):
            assert selector["matchLabels"].items() <= template["metadata"]["labels"].items()


@pytest.mark.parametrize("file", FILES)
def test_every_server_is_scraped_and_leaves_its_last_words(file: str) -> None:
    """By the operator, and by the pods' annotations."""
    (scraped,) = kind("PodMonitor")["spec"]["selector"]["matchExpressions"]
    for template in pods(file):
        (container,) = template["spec"]["containers"]
        assert container["terminationMessagePolicy"] == "FallbackToLogsOnError"
        assert template["metadata"]["labels"][scraped["key"]] in scraped["values"]
        served = "http" in [port["name"] for port in container.get("ports", ())]
        assert served is ("prometheus.io/scrape" in template["metadata"].get("annotations", {}))


def test_nodes_wait_for_each_other_as_long_as_they_may_take_to_start() -> None:
    leader = kind("LeaderWorkerSet", NODES)["spec"]["leaderWorkerTemplate"]["leaderTemplate"]
    (container,) = leader["spec"]["containers"]
    patience = container["startupProbe"]["periodSeconds"] * container["startupProbe"]["failureThreshold"]
    for template in pods(NODES):
        (words,) = (container["args"] for container in template["spec"]["containers"])
        assert f"--node-start-timeout={patience}" in words


def test_a_group_that_does_not_start_holds_up_no_machine() -> None:
    for file in (REPLICAS, NODES):
        assert kind("PodDisruptionBudget", file)["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow"


def test_replicas_are_applied_again_without_the_deployment_of_one() -> None:
    """What the head of replicas.yaml says holds for upgrades, too."""
    head = (KUBERNETES / REPLICAS).read_text().partition("apiVersion:")[0]
    (command,) = re.findall(r"kubectl apply (.+)", head)
    applied = list(documents(*(Path(file).name for file in re.findall(r"-f (\S+)", command))))
    names = [(each["kind"], each["metadata"]["name"]) for each in applied]
    assert len(names) == len({*names}) and {"Service", "NetworkPolicy", "PodMonitor"} <= {name for name, _ in names}
    assert [each for each in applied if each["kind"] == "Deployment"] == [kind("Deployment", REPLICAS)]

"""The files for Kubernetes by the description of its API, and what belongs together in them."""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest
from jsonschema import ValidationError

from tests.conf.manifests import FILES, documents, kind, validator
from tests.queries import selectors
from tgi_server.config.schema import ServerConfig
from tgi_server.telemetry.names import FAMILIES

REPLICAS = "replicas.yaml"


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

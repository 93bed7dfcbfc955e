"""What is in the files of deploy/kubernetes, and what Kubernetes says of its kinds."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator

HERE = Path(__file__).parent
KUBERNETES = HERE.parents[1] / "deploy/kubernetes"
FILES = sorted(path.name for path in KUBERNETES.glob("*.yaml"))


def documents(*names: str) -> Iterator[dict[str, Any]]:
    """Those of some files."""
    for name in names:
        yield from yaml.safe_load_all((KUBERNETES / name).read_text())


def kind(name: str, *files: str) -> dict[str, Any]:
    """The only one of its kind in some files; by default in those of one pod."""
    found = documents(*(files or ("server.yaml", "service.yaml", "podmonitor.yaml")))
    (only,) = (document for document in found if document["kind"] == name)
    return only


def pods(*names: str) -> Iterator[dict[str, Any]]:
    """Templates of pods, of some files."""
    for document in documents(*names):
        spec = document["spec"]
        if document["kind"] == "Deployment":
            yield spec["template"]
        elif document["kind"] == "LeaderWorkerSet":
            yield from (spec["leaderWorkerTemplate"][name] for name in ("leaderTemplate", "workerTemplate"))


def validator(kind: str) -> Draft202012Validator:
    """Refuses what is not of that kind.

    kubernetes-1.37.json is Kubernetes' own description of its API, without texts and states, where every field that is
    not named is refused (the strict schemas of the package kubernetes-validate 1.37.0, Apache License 2.0). What other
    projects define is in kubernetes-custom.json: the fields that we use, and those around them, written after the
    references of Prometheus' operator, KEDA 2.15 and LeaderWorkerSet v1.
    """
    own, others = (json.loads((HERE / f"kubernetes-{name}.json").read_text()) for name in ("1.37", "custom"))
    kinds = {**own["kinds"], **others["kinds"]}
    return Draft202012Validator({**kinds[kind], "$defs": {**own["$defs"], **others["$defs"]}})

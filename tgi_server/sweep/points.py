"""The points of a sweep: one configuration under one load each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tgi_server.bench.workload import Workload
from tgi_server.jobs.base import Task


@dataclass(frozen=True)
class Point:
    """One configuration under one load.

    Attributes:
        number: from 1 on.
        settings: what is not the same at all points, as it is written: `{"max_waiting_tokens": "5", "clients": "8"}`.
        task: the configuration, and the job with its fields.
        work: what is asked of the server; it has one number of clients.
    """

    number: int
    settings: Mapping[str, str]
    task: Task
    work: Workload

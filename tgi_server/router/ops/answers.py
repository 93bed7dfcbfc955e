"""What operators get."""

from __future__ import annotations

from typing import TypedDict


class Info(TypedDict):
    """What is served, and within which limits."""

    model_id: str
    """Name of the model on the hub, or its path."""
    model_sha: str | None
    """Commit of the model on the hub."""
    model_dtype: str
    """Number format of the weights."""
    model_device_type: str
    """`cpu` or `cuda`."""
    model_pipeline_tag: str | None
    """What the hub says that the model is for."""
    max_concurrent_requests: int
    """Texts that are generated or wait at a time; what is beyond is refused."""
    max_best_of: int
    max_stop_sequences: int
    max_input_length: int
    """Longest prompt, in tokens."""
    max_total_tokens: int
    """Longest prompt with its answer, in tokens."""
    waiting_served_ratio: float
    max_batch_total_tokens: int
    """Tokens that all running requests may hold together."""
    max_waiting_tokens: int
    max_batch_size: int | None
    """Requests that run at a time; `null` for any number."""
    validation_workers: int
    version: str
    sha: str | None
    """Commit of the server."""
    docker_label: str | None

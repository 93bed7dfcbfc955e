"""Every metric of /metrics, declared: its name, what it is, its labels with their values, its buckets, its meaning.

Those that begin with `tgi_request_`, `tgi_batch_` or `tgi_queue_` and are not said to be new in docs/operating.md are
text-generation-inference's, whose counters have no `_total`. No label may have values that clients choose.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["counter", "gauge", "histogram"]

Bounds = Literal["seconds", "input", "total", "batch", "guesses"]
"""Buckets of a histogram: of durations, of lengths up to `max_input_length` or to `max_total_tokens`, of the sequences
of a step, of the tokens that may be guessed."""

Values = tuple[str, ...] | re.Pattern[str]
"""What a label may say: one of these, or what matches where that depends on model and options."""


@dataclass(frozen=True, slots=True)
class Family:
    """One metric. The series of it differ in the values of its `labels`, which are always told in this order."""

    name: str
    kind: Kind
    help: str
    labels: Mapping[str, Values] = field(default_factory=dict)
    bounds: Bounds | None = None

    def check(self, labels: Mapping[str, str]) -> None:
        """Raises ValueError for labels, or values of them, that are not declared."""
        if tuple(labels) != tuple(self.labels):
            raise ValueError(f"{self.name} has the labels {[*self.labels]}, not {[*labels]}")
        for label, value in labels.items():
            known = self.labels[label]
            if not (value in known if isinstance(known, tuple) else known.fullmatch(value)):
                raise ValueError(f'{self.name} has no {label}="{value}"')


def _counter(name: str, help: str, **labels: Values) -> Family:
    return Family(name, "counter", help, labels)


def _gauge(name: str, help: str, **labels: Values) -> Family:
    return Family(name, "gauge", help, labels)


def _histogram(name: str, help: str, bounds: Bounds = "seconds", **labels: Values) -> Family:
    return Family(name, "histogram", help, labels, bounds)


_ANY = re.compile(r"(?s).*")
_NUMBER = re.compile(r"\d+")
_METHOD = ("prefill", "decode")
_ERR = ("overloaded", "validation", "template", "incomplete", "dropped", "generation")
_GROUP = re.compile(r"full|window-\d+|state|encoder")
_ROUTE = re.compile(r"/.*|other")

_TABLE = (
    # requests
    _counter("tgi_request_count", "Requests that were read."),
    _counter("tgi_request_success", "Requests that got their last token."),
    _counter("tgi_request_failure", "Requests that ended without one, by what came in between.", err=_ERR),
    _histogram("tgi_request_duration", "Seconds from a request's arrival to its last token."),
    _histogram("tgi_request_validation_duration", "Seconds from a request's arrival until it was queued."),
    _histogram("tgi_request_queue_duration", "Seconds that a request waited for its first step."),
    _histogram("tgi_request_inference_duration", "Seconds from a request's first step to its last token."),
    _histogram(
        "tgi_request_mean_time_per_token_duration",
        "Seconds of a request's steps, the prompt's included, divided by the tokens it got.",
    ),
    _histogram(
        "tgi_request_first_token_duration",
        "Seconds from a request's arrival to its first token, for each of its texts.",
    ),
    _histogram(
        "tgi_request_inter_token_duration",
        "Seconds between a text's tokens. Several tokens of one step share the time since the one before.",
    ),
    _histogram("tgi_request_generated_tokens", "Tokens that a request got.", "total"),
    _histogram("tgi_request_input_length", "Tokens of a request's prompt.", "input"),
    _histogram("tgi_request_max_new_tokens", "Tokens that a request could get at most.", "total"),
    _histogram("tgi_request_skipped_tokens", "Tokens beyond the first that a text got in one step.", "guesses"),
    _gauge("tgi_request_open", "Texts that hold one of the places of max_concurrent_requests."),
    _gauge("tgi_request_open_limit", "Those places: max_concurrent_requests."),
    _counter(
        "tgi_http_responses", "Answers by route and status, also those to requests that could not be read.",
        route=_ROUTE, status=re.compile(r"\d{3}"),
    ),
    # queue and steps
    _gauge("tgi_queue_size", "Texts that wait for their first step."),
    _gauge("tgi_batch_current_size", "Texts that further steps are needed for."),
    _gauge("tgi_batch_current_max_tokens", "Cache positions that the running texts own."),
    _histogram("tgi_batch_next_size", "Texts that a step started.", "batch"),
    _counter(
        "tgi_batch_concat", "Prefills beside running texts, by why these had to wait.",
        reason=("backpressure", "wait_exceeded"),
    ),
    _counter("tgi_batch_inference_count", "Steps that were sent to the shards.", method=_METHOD),
    _counter("tgi_batch_inference_success", "Steps that did not fail.", method=_METHOD),
    _counter("tgi_batch_inference_failure", "Steps that failed, also if they succeeded in parts.", method=_METHOD),
    _histogram(
        "tgi_batch_inference_duration",
        "Seconds from a step's plan, or the outcome before if that came later, to its outcome.", method=_METHOD,
    ),
    _histogram("tgi_batch_forward_duration", "Seconds that the device worked on a step.", method=_METHOD),
    _histogram(
        "tgi_batch_wait_duration", "Seconds that the device waited for the next step while there was work to plan.",
        method=_METHOD,
    ),
    _histogram(
        "tgi_batch_filter_duration", "Seconds in which the router took a step in: who ended, whose cache is free.",
        method=_METHOD,
    ),
    _histogram(
        "tgi_batch_decode_duration", "Seconds in which the router made text of a step's tokens and passed it on.",
        method=_METHOD,
    ),
    # cache
    _gauge("tgi_cache_usage", "Share of the cache's blocks that texts hold, of the fullest group of layers: 0 to 1."),
    _gauge("tgi_cache_used_blocks", "Cache blocks that texts hold, by group of layers.", group=_GROUP),
    _gauge("tgi_cache_blocks", "Cache blocks that there are, by group of layers.", group=_GROUP),
    _gauge("tgi_cache_kept_blocks", "Free cache blocks that remember the beginning of a prompt.", group=_GROUP),
    _gauge(
        "tgi_cache_info", "1; labels say the size of a block in tokens, and how many blocks the smallest group has.",
        block_size=_NUMBER, num_gpu_blocks=_NUMBER,
    ),
    _counter("tgi_prefix_cache_query_tokens", "Prompt tokens of the texts that looked in the cache when they started."),
    _counter("tgi_prefix_cache_hit_tokens", "Those of them that were there."),
    # speculation
    _counter(
        "tgi_speculate_guessed_tokens", "Guesses computed, by their place behind the certain token.", position=_NUMBER
    ),
    _counter("tgi_speculate_accepted_tokens", "Those of them that were right.", position=_NUMBER),
    # the server
    _gauge(
        "tgi_info", "1; labels say what runs.",
        version=_ANY, model=_ANY, model_sha=_ANY, dtype=_ANY, device=_ANY, shards=_NUMBER,
    ),
    _gauge("tgi_model_load_seconds", "Seconds from the start of the shards until all had loaded the model."),
    _gauge("tgi_shard_resident_memory_bytes", "Memory of a shard's process that is in use, but a GPU's.", rank=_NUMBER),
    _counter("tgi_shard_cpu_seconds", "Seconds of processor time that a shard has used.", rank=_NUMBER),
    _gauge("tgi_replicas_running", "Replicas that take requests."),
    _gauge("tgi_replicas_wanted", "Replicas that are kept or started at present."),
    _counter("tgi_replicas_lost", "Replicas that stopped running though they were wanted."),
    _counter("process_cpu_seconds_total", "Seconds of processor time that the router has used."),
    _gauge("process_resident_memory_bytes", "Memory of the router that is in use."),
    _gauge("process_virtual_memory_bytes", "Address space of the router."),
    _gauge("process_start_time_seconds", "When the router was started, in Unix time."),
    _gauge("process_open_fds", "Descriptors that the router has open."),
    _gauge("process_max_fds", "Descriptors that it may have open."),
)  # fmt: skip

FAMILIES = {family.name: family for family in _TABLE}
"""All metrics by name, in the order in which they are written."""

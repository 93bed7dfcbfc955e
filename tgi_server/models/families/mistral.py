"""Mistral (arXiv:2310.06825) and Ministral: Llama with a window, in all layers or in some."""

from __future__ import annotations

from tgi_server.models import gated
from tgi_server.models.config import ModelConfig
from tgi_server.models.spec import ModelSpec

model_types = ("mistral", "ministral")


def describe(config: ModelConfig) -> ModelSpec:
    """See `families`. A configuration that leaves the window out means 4096, one that says null none."""
    none = "sliding_window" in config.entries and config.entries["sliding_window"] is None
    window = None if none else config.whole("sliding_window", default=4096)
    return gated.model(config, gated.Style(windows=(window,) * config.layers()))

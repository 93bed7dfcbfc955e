"""Fields of the Anthropic API without effect: they are not read."""

from __future__ import annotations

WITHOUT_EFFECT = frozenset([
    "cache_control", "container", "context_management", "diagnostics", "inference_geo", "metadata", "service_tier",
    "speed", "user_profile_id", "workspace_id",
])  # fmt: skip
"""Those of requests that are hints, or about an account: an answer without them is one that was asked for."""

WITHOUT_EFFECT_INSIDE = frozenset([
    "allowed_callers", "budget_tokens", "cache_control", "caller", "citations", "data", "defer_loading",
    "eager_input_streaming", "input_examples", "signature", "toolset_name",
])  # fmt: skip
"""Those of blocks, tools and `thinking`."""

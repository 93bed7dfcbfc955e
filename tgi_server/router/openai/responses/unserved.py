"""Fields of the Responses API that are not served: those that are refused, and those without effect."""

from __future__ import annotations

from tgi_server.router.openai.unserved import NotServed

WITHOUT_EFFECT = frozenset([
    "access_programs", "background_options", "context_management", "image", "max_tool_calls", "prompt_cache_key",
    "prompt_cache_options", "prompt_cache_retention", "safety_identifier", "service_tier", "store", "stream_options",
    "truncation", "user",
])  # fmt: skip
"""Those that are hints, or about an account, or about tools of OpenAI's own. They are not read."""

WITHOUT_EFFECT_INSIDE = frozenset([
    "allowed_callers", "annotations", "async", "async_", "caller", "context", "defer_loading", "description",
    "encrypted_content", "generate_summary", "id", "logprobs", "mode", "name", "namespace", "output_schema", "phase",
    "prompt_cache_breakpoint", "status", "summary", "verbosity",
])  # fmt: skip
"""Those of items, their parts, tools, `text` and `reasoning`; `name` and `description` are those of a format."""

_KEPT = "nothing is kept, so send the whole conversation as `input`"
REFUSED = {
    "background": NotServed((False,), "answers are for those who wait for them"),
    "conversation": NotServed(instead=_KEPT),
    "moderation": NotServed(),
    "previous_response_id": NotServed(instead=_KEPT),
    "prompt": NotServed(instead=_KEPT),
}
"""Those that would change the answer."""

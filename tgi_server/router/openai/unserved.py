"""Fields of the OpenAI API and its relatives that are not served: those that are refused, and those without effect."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from tgi_server.errors import ValidationError
from tgi_server.router.http.wire import Body

WITHOUT_EFFECT = frozenset([
    "user", "metadata", "store", "service_tier", "safety_identifier", "verbosity", "prediction",
    "prompt_cache_key", "prompt_cache_options", "prompt_cache_retention", "cache_prompt", "cache_salt", "priority",
    "request_id", "tool_prompt",
])  # fmt: skip
"""Those that are hints, or about an account: an answer without them is one that was asked for. They are not read."""


class NotServed(NamedTuple):
    """A field that would change the answer.

    Attributes:
        neutral: the values beside null that ask for nothing.
        instead: what to use.
    """

    neutral: tuple[Any, ...] = ()
    instead: str = ""


_GUIDE = NotServed(instead="use `response_format`")
EVERYWHERE = {
    "min_tokens": NotServed((0,)),
    "stop_token_ids": NotServed(([],)),
    "allowed_token_ids": NotServed(),
    "bad_words": NotServed(([],), "use `logit_bias`"),
    "use_beam_search": NotServed((False,)),
    "include_stop_str_in_output": NotServed((False,)),
    "skip_special_tokens": NotServed((True,)),
    "prompt_logprobs": NotServed(instead="`echo` of `/v1/completions` has them"),
    "truncate_prompt_tokens": NotServed(),
    "guided_json": _GUIDE,
    "guided_regex": _GUIDE,
    "guided_choice": _GUIDE,
    "guided_grammar": _GUIDE,
    "structured_outputs": _GUIDE,
    "json_schema": _GUIDE,
    "grammar": _GUIDE,
}
IN_CHATS = {
    "functions": NotServed(([],), "use `tools`"),
    "function_call": NotServed(("none", "auto"), "use `tool_choice`"),
    "modalities": NotServed(([], ["text"]), "answers are text"),
    "audio": NotServed(instead="answers are text"),
    "web_search_options": NotServed(instead="the server has no access to the web"),
    "moderation": NotServed(),
    "chat_template": NotServed(instead="the operator sets it with `tokenizer_config_path`"),
    "documents": NotServed(([],), "use `chat_template_kwargs`"),
}
IN_COMPLETIONS = {"suffix": NotServed(("",))}


def check_unserved(body: Body, refused: Mapping[str, NotServed] = EVERYWHERE | IN_CHATS | IN_COMPLETIONS) -> None:
    """Refuse what is not served, naming the field and what to use instead.

    Raises:
        ValidationError: see above.
    """
    for name, (neutral, instead) in refused.items():
        value = getattr(body, name, None)
        if value is not None and value not in neutral:
            raise ValidationError(f"`{name}` is not supported{instead and f': {instead}'}", name)

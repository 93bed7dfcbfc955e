"""Fields that are not served: none is overlooked, and `docs/api.md` tells which are refused and which do nothing."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import huggingface_hub
import openai.types
import pytest
from openai.types import chat

from tgi_server.errors import ValidationError
from tgi_server.router.http.openapi.words import field_docs
from tgi_server.router.http.wire import parse
from tgi_server.router.openai.requests import ChatBody, CompletionBody, OpenAIBody
from tgi_server.router.openai.unserved import EVERYWHERE, IN_CHATS, IN_COMPLETIONS, WITHOUT_EFFECT, check_unserved

CHAT, COMPLETION = {"messages": [{"role": "user", "content": "hi"}]}, {"prompt": "hi"}
API = (Path(__file__).parents[4] / "docs" / "api.md").read_text(encoding="utf-8")
IGNORED, *_ = API.partition("## Fields without effect\n")[2].partition("\n## ")
REFUSED, *_ = API.partition("## Fields that are refused\n")[2].partition("\n## ")


def read(body: dict[str, Any]) -> OpenAIBody:
    return parse(ChatBody if "messages" in body else CompletionBody, json.dumps(body).encode(), "application/json")


def names(table: str) -> set[str]:
    """What the first cells of a table name."""
    cells = re.findall(r"^\| (`.+?) \|", table, re.MULTILINE)
    return {name for cell in cells for name in re.findall(r"`(\w+)`", cell)}


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        (ChatBody, chat.completion_create_params.CompletionCreateParamsBase.__annotations__),
        (ChatBody, huggingface_hub.ChatCompletionInput.__annotations__),
        (CompletionBody, openai.types.completion_create_params.CompletionCreateParamsBase.__annotations__),
    ],
    ids=["openai", "huggingface_hub", "openai completions"],
)
def test_every_field_of_the_clients_is_read_or_on_the_list(body: type[OpenAIBody], fields: dict[str, Any]) -> None:
    assert len(fields) > 10 and not set(fields) - WITHOUT_EFFECT - set(body.__struct_fields__)


def test_the_lists_are_in_the_documentation() -> None:
    assert names(IGNORED) == WITHOUT_EFFECT
    assert names(REFUSED) == {*EVERYWHERE, *IN_CHATS, *IN_COMPLETIONS}


@pytest.mark.parametrize("name", sorted(WITHOUT_EFFECT))
def test_what_is_without_effect_is_not_read(name: str) -> None:
    for body, value in ((CHAT, "x"), (COMPLETION, {"a": [1]})):
        assert read(body | {name: value}) == read(body)


@pytest.mark.parametrize(
    ("body", "name"),
    [
        *((body, name) for body in (CHAT, COMPLETION) for name in EVERYWHERE),
        *((CHAT, name) for name in IN_CHATS),
        *((COMPLETION, name) for name in IN_COMPLETIONS),
    ],
)
def test_what_would_change_the_answer_is_refused(body: dict[str, Any], name: str) -> None:
    neutral, instead = (EVERYWHERE | IN_CHATS | IN_COMPLETIONS)[name]
    for value in (None, *neutral):
        check_unserved(read(body | {name: value}))
    with pytest.raises(ValidationError, match=f"`{name}` is not supported") as caught:
        check_unserved(read(body | {name: {"some": "thing"}}))
    assert caught.value.param == name and instead in str(caught.value)
    assert field_docs(type(read(body)))[name].startswith("Not served")


def test_audio_is_refused_and_text_is_not() -> None:
    check_unserved(read(CHAT | {"modalities": ["text"]}))
    for value in (["audio"], ["text", "audio"]):
        with pytest.raises(ValidationError, match="`modalities` is not supported: answers are text"):
            check_unserved(read(CHAT | {"modalities": value}))

"""Conversations as chat templates of several families want them."""

from __future__ import annotations

from typing import Any

import pytest

from tgi_server.errors import TemplateError, ValidationError
from tgi_server.router.chat.messages import ContentPart, Function, FunctionCall, Message, Tool, ToolCall
from tgi_server.router.chat.template import ChatTemplate, Rendering

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
LLAMA = (
    "{{ bos_token }}{% for m in messages %}{{ '<|start|>' + m['role'] + '<|end|>' + m['content'] | trim + '<|eot|>' }}"
    "{% endfor %}{% if add_generation_prompt %}<|start|>assistant<|end|>{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{% set system = messages[0].content + '\\n\\n' %}"
    "{% set turns = messages[1:] %}{% else %}{% set system, turns = '', messages %}{% endif %}{% for m in turns %}"
    "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}"
    "{% if m.role == 'user' %}[INST] {{ (system if loop.last else '') + m.content }} [/INST]"
    "{% else %}{{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n{{ m.content | trim }}"
    "<end_of_turn>\n{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
PARTS = (
    "{% for m in messages %}{{ m['role'] | capitalize }}: {% for line in m['content'] %}{% if line['type'] == 'text' %}"
    "{{ line['text'] }}{% endif %}{% endfor %}<end>\n{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"
)
BOTH = (
    "{% for m in messages %}{{ m.role }}:{% if m.content is string %}{{ m.content }}{% else %}"
    "{% for part in m.content %}({{ part.text }}){% endfor %}{% endif %};{% endfor %}"
)
HARMONY = (
    "{% if messages[0].role == 'developer' or messages[0].role == 'system' %}"
    "{% set text, turns = messages[0].content, messages[1:] %}{% else %}{% set text, turns = '', messages %}{% endif %}"
    "<developer>{{ text }}</developer>{% for m in turns %}{% if m.role in ['user', 'assistant'] %}"
    "<{{ m.role }}>{{ m.content }}</{{ m.role }}>{% endif %}{% endfor %}<assistant>"
)
TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}
SYSTEM, DEVELOPER, HELLO = Message("system", "Be kind."), Message("developer", "Be short."), Message("user", "Hi")


def render(source: str, *messages: Message, **rendering: Any) -> str:
    return ChatTemplate(source, TOKENS).render(messages, rendering=Rendering(**rendering))


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (CHATML, "<|im_start|>system\nBe short.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"),
        (LLAMA, "<s><|start|>system<|end|>Be short.<|eot|><|start|>user<|end|>Hi<|eot|><|start|>assistant<|end|>"),
        (MISTRAL, "<s>[INST] Be short.\n\nHi [/INST]"),
        (PARTS, "System: Be short.<end>\nUser: Hi<end>\nAssistant:"),
        (BOTH, "system:Be short.;user:Hi;"),
        (HARMONY, "<developer>Be short.</developer><user>Hi</user><assistant>"),
    ],
    ids=["chatml", "llama", "mistral", "parts", "both", "harmony"],
)
def test_a_developer_is_the_system_where_templates_do_not_know_it(source: str, expected: str) -> None:
    assert render(source, DEVELOPER, HELLO) == expected


def test_what_is_known_as_a_developer_stays_one() -> None:
    assert render("{% if 'developer' %}{% endif %}{{ messages[0].role }}", DEVELOPER, HELLO) == "developer"
    assert render("a developer asks: {{ messages[0].role }}", DEVELOPER, HELLO) == "a developer asks: system"


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (
            CHATML,
            "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>system\nBe short.<|im_end|>\n<|im_start|>user\nHi",
        ),
        (LLAMA, "<s><|start|>system<|end|>Be kind.<|eot|><|start|>system<|end|>Be short.<|eot|><|start|>user<|end|>Hi"),
        (MISTRAL, "<s>[INST] Be kind.\n\nBe short.\n\nHi [/INST]"),
        (HARMONY, "<developer>Be kind.\n\nBe short.</developer><user>Hi</user><assistant>"),
    ],
    ids=["chatml", "llama", "mistral", "harmony"],
)
def test_two_that_instruct_are_one_where_templates_take_one(source: str, expected: str) -> None:
    assert render(source, SYSTEM, DEVELOPER, HELLO).startswith(expected)


def test_a_template_without_a_system_says_so() -> None:
    assert render(GEMMA, HELLO).endswith("<start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\n")
    for messages in ([SYSTEM, HELLO], [DEVELOPER, HELLO], [SYSTEM, DEVELOPER, HELLO]):
        with pytest.raises(TemplateError, match="System role not supported"):
            render(GEMMA, *messages)


def test_contents_come_in_the_shape_that_a_template_reads() -> None:
    parts = Message("user", [ContentPart("a"), ContentPart(" b")])
    assert render(CHATML, parts).startswith("<|im_start|>user\na b<|im_end|>")
    assert (
        render(PARTS, parts, Message("assistant", "c"), parts)
        == "User: a b<end>\nAssistant: c<end>\nUser: a b<end>\nAssistant:"
    )
    assert render(BOTH, parts) == "user:a b;", "a text where both will do"
    shown = ChatTemplate(PARTS, TOKENS).render([HELLO], [Tool(Function("f", "does"))])
    assert shown.startswith("User: You can call functions") and shown.endswith("Hi<end>\nAssistant:")


def test_history_of_older_clients() -> None:
    old = [
        HELLO,
        Message("assistant", None, function_call=FunctionCall("f", '{"a": 1}')),
        Message("function", "one", name="f"),
        Message("assistant", [ContentPart(type="refusal", refusal="No.")]),
        HELLO,
        Message("assistant", None, refusal="Never."),
    ]
    new = [
        HELLO,
        Message("assistant", None, tool_calls=[ToolCall(FunctionCall("f", {"a": 1}))]),
        Message("tool", "one", name="f"),
        Message("assistant", "No."),
        HELLO,
        Message("assistant", "Never."),
    ]
    for source in (CHATML, "{{ tools | length if tools }}{{ messages | tojson }}"):
        assert render(source, *old) == render(source, *new)
    assert '<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>' in render(CHATML, *old)


@pytest.mark.parametrize(
    ("kind", "what"),
    [
        ("image_url", "images"),
        ("input_image", "images"),
        ("input_audio", "audio"),
        ("file", "files"),
        ("x", "such parts"),
    ],
)
def test_what_is_no_text_is_refused_by_name(kind: str, what: str) -> None:
    with pytest.raises(ValidationError, match=f"`{kind}`: {what} are not supported") as caught:
        render(CHATML, SYSTEM, Message("user", [ContentPart("see"), ContentPart(type=kind)]))
    assert caught.value.param == "messages[1].content[1]"


@pytest.mark.parametrize("part", [ContentPart(), ContentPart("a", type="refusal"), ContentPart(refusal="a")])
def test_parts_need_their_text(part: ContentPart) -> None:
    with pytest.raises(ValidationError, match=r"`messages\[0\]\.content\[0\]` is of the type"):
        render(CHATML, Message("user", [part]))


@pytest.mark.parametrize(
    ("source", "content", "end"),
    [
        (CHATML, "The ", "<|im_start|>assistant\nThe "),
        (LLAMA, "The ", "<|start|>assistant<|end|>The"),
        (LLAMA, "The\n\n end", "<|start|>assistant<|end|>The\n\n end"),
        (LLAMA, "", "<|start|>assistant<|end|>"),
        (MISTRAL, "The ", "[INST] Hi [/INST]The "),
        (GEMMA, " The", "<start_of_turn>model\nThe"),
        (GEMMA, "", "<start_of_turn>model\n"),
        (PARTS, "The <end>", "Assistant: The <end>"),
        (BOTH, "The", "assistant:The"),
    ],
)
def test_a_last_message_is_gone_on_with(source: str, content: str, end: str) -> None:
    shown = render(source, HELLO, Message("assistant", content), continue_final=True)
    assert shown.endswith(end)
    whole = render(source, HELLO, Message("assistant", content), begin_answer=False)
    assert whole.startswith(shown) and len(whole) > len(shown)


@pytest.mark.parametrize(
    "last", [HELLO, Message("assistant", "a", tool_calls=[ToolCall(FunctionCall("f"))]), Message("tool", "a")]
)
def test_only_texts_of_the_assistant_are_gone_on_with(last: Message) -> None:
    with pytest.raises(ValidationError, match="`continue_final_message` needs") as caught:
        render(CHATML, HELLO, last, continue_final=True)
    assert caught.value.param == "continue_final_message"


def test_a_last_message_that_is_not_shown_cannot_be_gone_on_with() -> None:
    with pytest.raises(ValidationError, match="does not show the last message"):
        render("{{ messages[0].content }}", HELLO, Message("assistant", "a"), continue_final=True)


def test_a_beginning_of_the_answer_is_left_out_on_demand() -> None:
    assert render(CHATML, HELLO, begin_answer=False) == "<|im_start|>user\nHi<|im_end|>\n"


def test_more_variables() -> None:
    source = "{{ messages[0].content }}{{ enable_thinking | default('unset') }}{{ turns }}{{ documents }}"
    assert render(source, HELLO) == "HiunsetNone"
    variables = {"enable_thinking": False, "turns": 3, "documents": [1], "self": 1}
    assert render(source, HELLO, variables=variables) == "HiFalse3[1]"


@pytest.mark.parametrize("name", ["messages", "tools", "add_generation_prompt", "continue_final_message", "bos_token"])
def test_variables_that_are_not_the_clients(name: str) -> None:
    with pytest.raises(ValidationError, match=f"`chat_template_kwargs` cannot set `{name}`") as caught:
        render(CHATML, HELLO, variables={name: "x"})
    assert caught.value.param == "chat_template_kwargs"

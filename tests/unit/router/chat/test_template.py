import json
import logging
import shutil
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from tgi_server.errors import ConfigError, TemplateError
from tgi_server.router.chat.messages import ContentPart, Function, FunctionCall, Message, Tool, ToolCall
from tgi_server.router.chat.template import ChatTemplate, find_template

HELLO = [Message("user", "hello")]


def render(source: str, messages: list[Message] = HELLO, **tokens: str) -> str:
    return ChatTemplate(source, tokens).render(messages)


def write_config(directory: Path, name: str = "tokenizer_config.json", **config: Any) -> Path:
    path = directory / name
    path.write_text(json.dumps(config))
    return path


def test_blocks_are_trimmed_as_models_expect() -> None:
    line = "    {% if true %}\n{{ m.role }}: {{ m['content'] | trim }}\n    {% endif %}\n"
    source = "{% for m in messages %}\n" + line + "{% endfor %}"
    assert render(source, [Message("user", " a "), Message("assistant", "b")]) == "user: a\nassistant: b\n"


def test_variables_and_helpers() -> None:
    source = "{{ bos_token }}{{ eos_token }}{{ add_generation_prompt }}{{ strftime_now('%Y') }}{{ messages | tojson }}"
    messages = [Message("user", "<é>", name="eve")]
    expected = f"<s>True{datetime.now().year}" + '[{"role": "user", "content": "<é>", "name": "eve"}]'
    assert render(source, messages, bos_token="<s>") == expected


def test_json_is_written_as_in_transformers() -> None:
    source = "{{ x | tojson }}{{ x | tojson(ensure_ascii=True, separators=(',', ':'), sort_keys=True) }}"
    assert render("{% set x = {'b': 'é', 'a': [1]} %}" + source) == '{"b": "é", "a": [1]}{"a":[1],"b":"\\u00e9"}'
    assert render("{{ [1] | tojson(indent=1) }}") == "[\n 1\n]"


TOOL = Tool(Function("f", "does", {"type": "object"}))
CALLS = [
    Message("user", "hi"),
    Message("assistant", None, tool_calls=[ToolCall(FunctionCall("f", '{"a": 1}'))]),
    Message("tool", "one", tool_call_id="1"),
    Message("tool", "two"),
]


def test_tools_as_templates_know_them() -> None:
    template = ChatTemplate("{{ tools | tojson }}{{ messages | tojson }}{{ documents is none }}", {})
    shown = template.render(CALLS, [TOOL])
    function = '{"name": "f", "description": "does", "parameters": {"type": "object"}}'
    assert shown.startswith(f'[{{"type": "function", "function": {function}}}]') and shown.endswith("True")
    assert '"function": {"name": "f", "arguments": {"a": 1}}' in shown and '"tool_call_id": "1"' in shown
    assert template.render(HELLO).startswith("null"), "none, as in transformers, not undefined"


ALTERNATING = (
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('alternate') }}"
    "{% endif %}[{{ m.role }}]{{ m.content }}{% endfor %}"
)


def test_tools_for_a_template_that_knows_none() -> None:
    """One that refuses a system turn, and turns that do not alternate."""
    shown = ChatTemplate(ALTERNATING, {}).render(CALLS, [TOOL])
    assert shown.startswith("[user]You can call functions") and '"description": "does"' in shown
    assert '\n\nhi[assistant]<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>[user]' in shown
    assert shown.endswith("one\n</tool_response>\n<tool_response>\ntwo\n</tool_response>")
    system = [Message("system", "be kind"), *HELLO]
    shown = render("{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}", system)
    assert shown == "[system]be kind[user]hello"
    plain = ChatTemplate("{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}", {})
    assert plain.render(system, [TOOL]).startswith("[system]be kind\n\nYou can call")


def test_a_template_of_its_own_for_tools(tmp_path: Path) -> None:
    named = [{"name": "tool_use", "template": "{{ tools[0].function.name }}"}, {"name": "default", "template": "plain"}]
    write_config(tmp_path, chat_template=named)
    template = find_template(tmp_path, None)
    assert template is not None and (template.render(HELLO), template.render(HELLO, [TOOL])) == ("plain", "f")
    (tmp_path / "chat_template.jinja").write_text("file")
    (tmp_path / "additional_chat_templates").mkdir()
    (tmp_path / "additional_chat_templates" / "tool_use.jinja").write_text("{{ tools | length }}")
    template = find_template(tmp_path, None)
    assert template is not None and (template.render(HELLO), template.render(HELLO, [TOOL])) == ("file", "1")


def test_loop_controls_and_training_marks() -> None:
    body = "{% if i == 2 %}{% break %}{% endif %}{% generation %}{{ i }}{% endgeneration %}"
    assert render("{% for i in range(9) %}" + body + "{% endfor %}") == "01"


def test_parts_are_joined() -> None:
    assert render("{{ messages[0].content }}", [Message("user", [ContentPart("a"), ContentPart("b")])]) == "ab"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        ("{{ missing.attribute }}", "'missing' is undefined"),
        ("{{ messages[0].content + 1 }}", "can only concatenate str"),
        ("{{ 1 / 0 }}", "division by zero"),
        ("{{ messages.append(1) }}", "is unsafe"),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "unsafe"),
        ("{{ messages[0]['__class__'] }}{{ ({}|attr('__class__')).x }}", "unsafe"),
        ("{{ '{0.__class__.x}'.format(messages) }}", "unsafe"),
        ("{{ strftime_now.__globals__.os }}", "unsafe"),
        ("{{ cycler.__init__.__globals__.os }}", "unsafe"),
        ("{% for x in range(10 ** 9) %}x{% endfor %}", "Range too big"),
        ("{% include '/etc/passwd' %}", "no loader"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "recursion"),
    ],
)
def test_a_failing_template_says_why(source: str, message: str) -> None:
    with pytest.raises(TemplateError) as caught:
        render(source)
    assert message in str(caught.value)
    assert caught.value.public_message().startswith("Template error: ")


def test_special_tokens_may_be_objects_or_null(tmp_path: Path) -> None:
    tokens: dict[str, Any] = {"bos_token": {"content": "<s>"}, "eos_token": None, "unk_token": "<u>"}
    write_config(tmp_path, chat_template="{{ bos_token }}|{{ eos_token }}|{{ unk_token }}", **tokens)
    template = find_template(tmp_path, None)
    assert template is not None and template.render(HELLO) == "<s>||<u>"


def test_where_a_template_comes_from(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "tgi_server")
    assert find_template(tmp_path, None) is None
    assert "no chat template" in caplog.text
    write_config(tmp_path, chat_template="from config", bos_token="<s>")
    (tmp_path / "chat_template.jinja").write_text("from file {{ bos_token }}")
    own = write_config(tmp_path, "own.json", chat_template="from operator")
    assert [_text(tmp_path, own), _text(tmp_path, None)] == ["from operator", "from file <s>"]
    (tmp_path / "chat_template.jinja").unlink()
    assert _text(tmp_path, None) == "from config"
    assert str(own) in caplog.text and str(tmp_path / "tokenizer_config.json") in caplog.text


def _text(directory: Path, path: Path | None) -> str:
    template = find_template(directory, str(path) if path else None)
    assert template is not None
    return template.render(HELLO)


def test_named_templates(tmp_path: Path) -> None:
    named = [{"name": "tool_use", "template": "tools"}, {"name": "default", "template": "plain"}]
    write_config(tmp_path, chat_template=named)
    assert _text(tmp_path, None) == "plain"


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"a": 1}', '{"chat_template": "{% if %}"}', '{"chat_template": 3}', None]
)
def test_a_broken_file_of_the_operator_stops_the_start(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "own.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigError, match=r"tokenizer_config_path=.*own\.json: "):
        find_template(tmp_path, str(path))


@pytest.mark.parametrize(
    "content", [b"{", b"\xff", b'{"chat_template": "{% if %}"}', b'{"chat_template": [{"name": []}]}']
)
def test_a_broken_file_of_the_model_only_ends_chat(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "tokenizer_config.json").write_bytes(content)
    assert find_template(tmp_path, None) is None
    shutil.rmtree(tmp_path)

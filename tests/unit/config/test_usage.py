"""Help and the list of changed options are made from the schema."""

from __future__ import annotations

from tgi_server.config import describe, files, usage
from tgi_server.config.schema import ServerConfig, documented_options, without_variable


def test_help_names_every_option_default_and_choice() -> None:
    text = usage.text()
    for field in documented_options():
        assert f"--{field.name.replace('_', '-')}" in text
        assert (f"[env: {field.name.upper()}]" in " ".join(text.split())) == (field.name not in without_variable())
    assert "-p, --port N" in text
    assert "[default: bigscience/bloom-560m]" in text
    for group, names in files.groups().items():
        assert f"--{group} {'|'.join(names)}" in text
    assert max(map(len, text.splitlines())) <= 110


def test_changed_options_tell_their_origin() -> None:
    config = ServerConfig(port=80, max_batch_size=4)
    assert describe.changed(config, {"port": "--port"}) == [
        "port=80 (--port)",
        "max_batch_size=4 (configuration files)",
    ]


def test_every_option_is_described() -> None:
    for hint in describe.TYPES.values():
        assert describe.expectation(hint)

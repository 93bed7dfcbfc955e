"""What requests say about the choice of tokens."""

from __future__ import annotations

from typing import Any

import pytest

from tgi_server.bench.options import BenchOptions
from tgi_server.bench.sampling import fields
from tgi_server.errors import UsageError

GREEDY = {"temperature": 0.0, "ignore_eos": True}
SAMPLED = GREEDY | {"temperature": 1.0}


@pytest.mark.parametrize(("options", "sent"), [
    ({}, GREEDY),
    ({"temperature": 0.0}, GREEDY),
    ({"temperature": 0.7}, GREEDY | {"temperature": 0.7}),
    ({"top_p": 0.95}, SAMPLED | {"top_p": 0.95}),
    ({"temperature": 0.5, "top_k": 50, "min_p": 0.1}, GREEDY | {"temperature": 0.5, "top_k": 50, "min_p": 0.1}),
    ({"typical_p": 0.9, "sampling_seed": 7}, SAMPLED | {"typical_p": 0.9, "seed": 7}),
    ({"repetition_penalty": 1.2, "presence_penalty": 0.0}, GREEDY | {"repetition_penalty": 1.2, "presence_penalty": 0}),
    ({"frequency_penalty": 0.5, "watermark": True}, GREEDY | {"frequency_penalty": 0.5, "watermark": True}),
    ({"response_format": '{"type": "json_object"}'},
     {"temperature": 0.0, "response_format": {"type": "json_object"}}),
])  # fmt: skip
def test_fields(options: dict[str, Any], sent: dict[str, Any]) -> None:
    assert fields(BenchOptions(**options)) == sent


@pytest.mark.parametrize(("options", "words"), [
    ({"temperature": 0.0, "top_k": 5}, "top_k=5: has no effect with temperature=0"),
    ({"temperature": 0.0, "sampling_seed": 5}, "sampling_seed=5: has no effect"),
    ({"response_format": "["}, "response_format=[: expected a JSON object"),
    ({"response_format": "[]"}, "response_format=[]: expected a JSON object"),
])  # fmt: skip
def test_mistakes(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError) as error:
        fields(BenchOptions(**options))
    assert str(error.value).startswith(words)

"""The rules for requests of the native API, a row each, in the order in which they are checked.

A row is what a request asks for (parameters, and `inputs`) and the answer's message. Requests that break two rules are
told the first.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from tests.router_app import Router, started

Asked = dict[str, Any]
Row = tuple[Asked, str]

LIMITS: dict[str, Any] = {
    "max_input_length": 20, "max_total_tokens": 30, "max_best_of": 2, "max_stop_sequences": 2, "max_top_n_tokens": 5,
    "payload_limit": 1000, "max_concurrent_requests": 2,
}  # fmt: skip
PLAIN: Asked = {"inputs": "hello", "max_new_tokens": 5}
"""Four tokens and five more: breaks no rule."""

ONLY_STREAMED: list[Row] = [
    ({"best_of": 2}, "`best_of` must be 1 when streaming tokens"),
    ({"decoder_input_details": True}, "`decoder_input_details` must be false when streaming tokens"),
]
TOO_MANY: Row = ({"best_of": 3, "do_sample": True}, "`best_of` must be > 0 and <= 2. Given: 3")
UNSAMPLED: Row = ({"best_of": 2}, "`best_of` > 1 needs sampling, such as `do_sample`")
SEEDED: Row = ({"best_of": 2, "do_sample": True, "seed": 1}, "`seed` must not be set when `best_of` > 1")
NUMBERS: list[Row] = [
    ({"temperature": 0.0}, "`temperature` must be strictly positive"),
    ({"temperature": -1}, "`temperature` must be strictly positive"),
    ({"temperature": 1e-60}, "`temperature` must be strictly positive"),
    ({"temperature": 1e60}, "`temperature` is too large"),
    ({"repetition_penalty": 0}, "`repetition_penalty` must be strictly positive"),
    ({"repetition_penalty": -0.5}, "`repetition_penalty` must be strictly positive"),
    ({"frequency_penalty": 2.1}, "`frequency_penalty` must be >= -2.0 and <= 2.0"),
    ({"frequency_penalty": -2.1}, "`frequency_penalty` must be >= -2.0 and <= 2.0"),
    ({"top_p": 0}, "`top_p` must be > 0.0 and < 1.0"),
    ({"top_p": 1.0}, "`top_p` must be > 0.0 and < 1.0"),
    ({"top_p": 1e-60}, "`top_p` must be > 0.0 and < 1.0"),
    ({"top_p": 0.999999999}, "`top_p` must be > 0.0 and < 1.0"),  # 1 as a 32-bit float
    ({"typical_p": -0.1}, "`typical_p` must be > 0.0 and < 1.0"),
    ({"typical_p": 1e60}, "`typical_p` must be > 0.0 and < 1.0"),
    ({"top_k": 0}, "`top_k` must be strictly positive"),
    ({"top_k": -1}, "`top_k` must be strictly positive"),
    ({"max_new_tokens": 0}, "`max_new_tokens` must be strictly positive"),
    ({"stop": ["a", "b", "c"]}, "`stop` supports up to 2 stop sequences. Given: 3"),
    ({"stop": ["a", ""]}, "`stop` cannot hold an empty string"),
]
LENGTHS: list[Row] = [
    ({"top_n_tokens": 6}, "`top_n_tokens` must be >= 0 and <= 5. Given: 6"),
    ({"inputs": ""}, "`inputs` cannot be empty"),
    ({"truncate": 0}, "`truncate` must be strictly positive and less than 20. Given: 0"),
    ({"truncate": 21}, "`truncate` must be strictly positive and less than 20. Given: 21"),
    (
        {"max_new_tokens": 27},
        "`inputs` tokens + `max_new_tokens` must be <= 30. Given: 4 `inputs` tokens and 27 `max_new_tokens`",
    ),
    ({"inputs": "z" * 21}, "`inputs` must have less than or equal to 20 tokens. Given: 21"),
]
ADAPTED: Row = ({"adapter_id": "me/lora"}, "`adapter_id` is not supported: a server has one model")
WHOLE = [TOO_MANY, ADAPTED, UNSAMPLED, *NUMBERS, SEEDED, *LENGTHS]
STREAMED = [*ONLY_STREAMED, ADAPTED, *NUMBERS, *LENGTHS]

ALLOWED: list[Asked] = [
    {"adapter_id": None}, {"adapter_id": ""},
    {"frequency_penalty": 2}, {"frequency_penalty": -2.0}, {"top_p": 0.99}, {"typical_p": 0.99}, {"top_k": 1},
    {"max_new_tokens": 1}, {"stop": ["a", "b"]}, {"stop": []}, {"best_of": 1, "seed": 1}, {"best_of": 0, "seed": 1},
    {"best_of": 2, "temperature": 1.0}, {"best_of": 2, "top_k": 3}, {"best_of": 2, "typical_p": 0.5},
    {"top_n_tokens": 5}, {"top_n_tokens": 0}, {"truncate": 20}, {"truncate": 1}, {"max_new_tokens": 26},
    {"inputs": "z" * 20, "max_new_tokens": 10}, {"inputs": "z" * 40, "truncate": 20}, {"max_new_tokens": None},
]  # fmt: skip

WHOLE_PATHS = [
    ("/generate", {}),
    ("/", {}),
    ("/", {"stream": False}),
    ("/invocations", {}),
    ("/generate", {"stream": True}),
]
STREAM_PATHS = [("/generate_stream", {}), ("/", {"stream": True}), ("/invocations", {"stream": True})]


class Served:
    """A router that a synchronous test can ask."""

    def __init__(self, runner: asyncio.Runner, router: Router) -> None:
        self._runner = runner
        self._client = router.app.test_client()
        self.router = router

    def post(
        self, path: str, data: bytes, kind: str | None = "application/json", **headers: str
    ) -> tuple[int, str, str]:
        """Status, content type and text of an answer; errors tell nothing about computing."""

        async def ask() -> tuple[int, str, str]:
            given = {name.replace("_", "-"): value for name, value in headers.items()}
            given |= {"content-type": kind} if kind is not None else {}
            response = await self._client.post(path, data=data, headers=given)
            told = {name.lower() for name, _ in response.headers.items()} - {"x-request-id"}
            assert response.status_code == 200 or not any(name.startswith("x-") for name in told)
            return response.status_code, response.headers["content-type"], await response.get_data(as_text=True)

        return self._runner.run(ask())

    def whole(self, asked: Asked, path: str = "/generate", **fields: Any) -> tuple[int, Any]:
        """Status and JSON of an answer."""
        status, kind, text = self.post(path, body(asked, **fields))
        assert kind == "application/json"
        return status, json.loads(text)

    def streamed(self, asked: Asked, path: str = "/generate_stream", **fields: Any) -> list[Any]:
        """The events of a stream."""
        status, kind, text = self.post(path, body(asked, **fields))
        assert (status, kind) == (200, "text/event-stream")
        return [json.loads(event.removeprefix("data: ")) for event in text.split("\n\n")[:-1]]


def body(asked: Asked, **fields: Any) -> bytes:
    parameters = PLAIN | asked
    return json.dumps({"inputs": parameters.pop("inputs"), "parameters": parameters} | fields).encode()


def refusal(message: str) -> dict[str, str]:
    return {"error": f"Input validation error: {message}", "error_type": "validation"}


def together(one: Asked, other: Asked) -> bool:
    """Whether a request can break both rules: they are about different fields, and it does not begin to sample."""
    samples = other.keys() & {"temperature", "top_k", "top_p", "typical_p"}
    return not one.keys() & other.keys() and not (one == UNSAMPLED[0] and samples)


def later(rows: Sequence[Row], number: int) -> list[Asked]:
    """What breaks a later rule as well."""
    return [other for other, _ in rows[number + 1 :] if together(rows[number][0], other)]


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with asyncio.Runner() as runner:
        opened = started(**LIMITS)
        yield Served(runner, runner.run(opened.__aenter__()))
        runner.run(opened.__aexit__(None, None, None))


@pytest.mark.parametrize(("asked", "message"), WHOLE)
def test_a_rule(served: Served, asked: Asked, message: str) -> None:
    for path, fields in WHOLE_PATHS:
        assert served.whole(asked, path, **fields) == (422, refusal(message))


@pytest.mark.parametrize(("asked", "message"), STREAMED)
def test_a_rule_for_streams(served: Served, asked: Asked, message: str) -> None:
    for path, fields in STREAM_PATHS:
        assert served.streamed(asked, path, **fields) == [refusal(message)]


@pytest.mark.parametrize("asked", ALLOWED)
def test_what_is_just_allowed(served: Served, asked: Asked) -> None:
    assert served.whole(asked)[0] == 200
    if asked.get("best_of", 1) == 1:
        assert "error" not in served.streamed(asked)[-1]


@pytest.mark.parametrize("number", range(len(WHOLE)))
def test_the_first_broken_rule_is_told(served: Served, number: int) -> None:
    asked, message = WHOLE[number]
    for other in later(WHOLE, number):
        status, answer = served.whole(other | asked)
        assert (status, answer["error"].split(". Given")[0]) == (422, refusal(message)["error"].split(". Given")[0]), (
            other
        )


@pytest.mark.parametrize("number", range(len(STREAMED)))
def test_the_first_broken_rule_is_told_in_the_stream(served: Served, number: int) -> None:
    asked, message = STREAMED[number]
    for other in later(STREAMED, number):
        (event,) = served.streamed(other | asked)
        assert event["error"].split(". Given")[0] == refusal(message)["error"].split(". Given")[0], other


@pytest.mark.parametrize(("asked", "message"), [
    ({"best_of": 3}, TOO_MANY[1]), ({"best_of": 3, "do_sample": True, "seed": 1}, TOO_MANY[1]),
    ({"best_of": 2, "seed": 1}, UNSAMPLED[1]), ({"best_of": 2, "temperature": 0}, NUMBERS[0][1]),
    ({"inputs": "z" * 31, "max_new_tokens": None}, "`inputs` tokens + `max_new_tokens` must be <= 30. Given: 31"),
])  # fmt: skip
def test_rules_about_the_same_field(served: Served, asked: Asked, message: str) -> None:
    status, answer = served.whole(asked)
    assert status == 422 and answer["error"].startswith(refusal(message)["error"])


def test_a_stream_has_one_candidate(served: Served) -> None:
    for best_of in (0, 2, 9):
        assert served.streamed({"best_of": best_of, "decoder_input_details": True}) == [refusal(ONLY_STREAMED[0][1])]


async def test_a_server_without_candidates() -> None:
    async with started(max_best_of=1) as router:
        for best_of in (2, 9):
            response = await router.app.test_client().post("/generate", data=body({"best_of": best_of}), headers=JSON)
            expected = refusal("`best_of` > 1 is not allowed on this endpoint")
            assert (response.status_code, await response.get_json()) == (422, expected)


OVERLOADED = {"error": "Model is overloaded", "error_type": "overloaded"}


def test_overload_comes_before_all_rules_but_the_first(served: Served) -> None:
    with served.router.engine.permit(), served.router.engine.permit():
        assert served.whole(TOO_MANY[0]) == (422, refusal(TOO_MANY[1]))
        for asked, _ in [(PLAIN, ""), *WHOLE[1:]]:
            assert served.whole(asked) == (429, OVERLOADED)
        for asked, message in ONLY_STREAMED:
            assert served.streamed(asked) == [refusal(message)]
        for asked, _ in [(PLAIN, ""), *STREAMED[2:]]:
            assert served.streamed(asked) == [OVERLOADED]
    with served.router.engine.permit():
        assert served.whole({"best_of": 2, "do_sample": True}) == (429, OVERLOADED)
        assert served.whole(PLAIN)[0] == 200


JSON = {"content-type": "application/json"}
PATHS = ["/generate", "/generate_stream", "/", "/invocations", "/tokenize"]
SHAPES = [
    b'"x"', b"[]", b"null", b"{}", b'{"inputs": null}', b'{"inputs": 1}', b'{"inputs": "x", "stream": null}',
    b'{"inputs": "x", "parameters": null}', b'{"inputs": "x", "parameters": {"max_new_tokens": 10.0}}',
    b'{"inputs": "x", "parameters": {"max_new_tokens": -1}}', b'{"inputs": "x", "parameters": {"seed": "1"}}',
    b'{"inputs": "x", "parameters": {"stop": null}}', b'{"inputs": "x", "parameters": {"do_sample": null}}',
]  # fmt: skip
BROKEN = [b"", b" ", b"{", b'{"inputs": "x"}}', b'{"inputs": "\xff"}', b'\xef\xbb\xbf{"inputs": "x"}', b"{'inputs': 1}"]
LONG = b'{"inputs": "' + b"x" * 1000 + b'"}'


def unreadable(
    served: Served, status: int, data: bytes, kind: str | None = JSON["content-type"], **headers: str
) -> None:
    """On every path, also under overload, as plain text, and not counted as a request."""
    counted = served.router.metric("tgi_request_count")
    with served.router.engine.permit(), served.router.engine.permit():
        for path in PATHS:
            answered, answer_kind, text = served.post(path, data, kind, **headers)
            assert (answered, answer_kind) == (status, "text/plain; charset=utf-8") and text and text[0] != "{"
    assert served.router.metric("tgi_request_count") == counted


@pytest.mark.parametrize("kind", [None, "text/plain", "application/jsonl", "text/json", "multipart/form-data"])
@pytest.mark.parametrize("data", [b'{"inputs": "x"}', BROKEN[2], SHAPES[0], LONG])
def test_another_content_type(served: Served, kind: str | None, data: bytes) -> None:
    unreadable(served, 415, data, kind)


@pytest.mark.parametrize("data", [b'{"inputs": "x"}', BROKEN[2], SHAPES[0], LONG])
def test_a_content_encoding(served: Served, data: bytes) -> None:
    unreadable(served, 415, data, content_encoding="gzip")


@pytest.mark.parametrize("data", [LONG, b"{" * 1001, b" " * 1001, b"1" + b" " * 1000])
def test_a_body_that_is_too_long(served: Served, data: bytes) -> None:
    unreadable(served, 413, data)


@pytest.mark.parametrize("data", BROKEN)
def test_what_is_not_json(served: Served, data: bytes) -> None:
    unreadable(served, 400, data)


@pytest.mark.parametrize("data", SHAPES)
def test_json_of_another_shape(served: Served, data: bytes) -> None:
    unreadable(served, 422, data)


def test_what_is_read(served: Served) -> None:
    longest = b'{"inputs": "x", "more": "' + b"x" * (1000 - 27) + b'"}'
    assert len(longest) == LIMITS["payload_limit"]
    for kind in (JSON["content-type"], "application/json; charset=utf-8", "application/vnd.api+json"):
        for path in PATHS:
            assert served.post(path, longest, kind, content_encoding="identity")[0] in (200, 422)
    assert served.post("/tokenize?x=1", longest)[0] == 200

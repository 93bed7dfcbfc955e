import pytest

from tgi_server.errors import GenerationError
from tgi_server.rpc.codec import INFO, OUTCOME, PLAN
from tgi_server.rpc.fake import FAKE_INFO
from tgi_server.types import NewSequence, Outcome, Plan, SamplingParams, TopTokens


def test_messages_come_back_as_they_were() -> None:
    new = NewSequence(1, [1, 2, 3], [[4, 5], [7, 7]], SamplingParams(temperature=0.5, seed=2**64 - 1), 9)
    plan = Plan(step=3, ids=[0, 1], counts=[1, 3], new=[new], finished=[7], draft=2)
    outcome = Outcome(
        step=3,
        ids=[0, 1],
        counts=[1, 0],
        tokens=[9],
        logprobs=[-0.25],
        top_tokens={0: [TopTokens([9, 8], [-0.25, float("-inf")])]},
        prompt_logprobs={1: [-1.0, -2.0]},
        failed={1: "out of memory"},
        forward_ns=12345678901,
        wait_ns=2345,
    )
    assert PLAN.decode(PLAN.encode(plan)) == plan
    assert OUTCOME.decode(OUTCOME.encode(outcome)) == outcome
    assert INFO.decode(INFO.encode(FAKE_INFO)) == FAKE_INFO


@pytest.mark.parametrize("data", [b"", b"\xc1", b"\x81\xa4step\x01", b"\x81\xa4step\xa3abc"])
def test_bad_bytes_are_a_clear_error(data: bytes) -> None:
    with pytest.raises(GenerationError, match=rf"unreadable Plan \({len(data)} bytes\): "):
        PLAN.decode(data)

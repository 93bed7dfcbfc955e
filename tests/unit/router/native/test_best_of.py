"""Several candidates for one answer."""

from __future__ import annotations

from typing import Any

from tests.router_app import Router, says, started
from tests.unit.router.native.test_native import post


async def best_of(router: Router, n: int, path: str = "/generate", **parameters: Any) -> tuple[int, Any]:
    body = {"inputs": "the fox", "parameters": {"best_of": n, "do_sample": True, "max_new_tokens": 5} | parameters}
    status, answer, _ = await post(router, path, body)
    return status, answer


async def test_independent_generations() -> None:
    async with started(max_best_of=4) as router:
        status, body = await best_of(router, 4, details=True, return_full_text=True, top_n_tokens=2)
        assert status == 200
        details = body["details"]
        assert list(details)[-2:] == ["best_of_sequences", "top_tokens"]
        assert len(details["best_of_sequences"]) == 3
        names = ["finish_reason", "generated_tokens", "seed", "prefill", "tokens", "top_tokens"]
        for other in details["best_of_sequences"]:
            assert list(other) == ["generated_text", *names]
            assert other["generated_text"].startswith("the fox") and len(other["tokens"]) == 5
        announced = [new.sampling.seed for plan in router.shards.plans for new in plan.new]
        told = [details["seed"], *(other["seed"] for other in details["best_of_sequences"])]
        assert told == announced, "of equally likely ones the first is taken, and the others keep their order"
        assert len(set(told)) == 4
        assert router.metric("tgi_request_count") == router.metric("tgi_request_success") == 1


async def test_only_where_several_were_asked_for() -> None:
    async with started(says("Paris.")) as router:
        _, body = await best_of(router, 1, details=True)
        assert "best_of_sequences" not in body["details"]
        _, body = await best_of(router, 2)
        assert body == {"generated_text": "Paris."}
        _, body = await best_of(router, 2, "/")
        assert body == [{"generated_text": "Paris."}]


async def test_every_candidate_needs_a_permit() -> None:
    async with started(max_concurrent_requests=3, max_best_of=4) as router:
        assert (await best_of(router, 4))[0] == 429
        assert (await best_of(router, 3))[0] == 200
        with router.engine.permit():
            assert (await best_of(router, 3))[0] == 429
            assert (await best_of(router, 2))[0] == 200


async def test_a_failing_candidate_fails_the_request() -> None:
    async with started() as router:
        router.shards.model.failures[1] = "out of memory"
        status, body = await best_of(router, 2)
        assert (status, body["error_type"]) == (424, "generation")
        assert router.engine.running == router.engine.waiting == 0
        assert (await best_of(router, 2))[0] == 200

import asyncio
import subprocess
import sys

import pytest

from tests.integration.listening import until
from tests.router_app import started
from tgi_server import __version__
from tgi_server.config.schema import Resolved


async def test_health() -> None:
    async with started() as router:
        client = router.app.test_client()
        for path in ("/health", "/", "/ping", "/livez", "/readyz", "/startupz"):
            response = await client.get(path)
            assert (response.status_code, await response.get_data()) == (200, b"")
        router.shards.kill()
        await until(router.engine.failed.is_set)
        for path in ("/livez", "/startupz"):
            assert (await client.get(path)).status_code == 200
        for path in ("/health", "/", "/ping", "/readyz"):
            response = await client.get(path)
            assert response.status_code == 503 and (await response.get_json())["error_type"] == "healthcheck"


async def test_draining() -> None:
    async with started() as router:
        client = router.app.test_client()
        router.engine.begin_drain()
        assert (await client.get("/health")).status_code == 503
        ready = await client.get("/readyz")
        assert ready.status_code == 503 and (await ready.get_json())["error_type"] == "healthcheck"
        assert (await client.get("/livez")).status_code == 200
        response = await client.post("/generate", json={"inputs": "x"})
        assert response.status_code == 503 and (await response.get_json())["error_type"] == "overloaded"


async def test_readiness_does_not_depend_on_load() -> None:
    async with started(step_seconds=0.02, max_batch_size=1, max_concurrent_requests=2) as router:
        client, body = router.app.test_client(), {"inputs": "x", "parameters": {"max_new_tokens": 50}}
        running = [asyncio.create_task(client.post("/generate", json=body)) for _ in range(2)]
        await until(lambda: router.engine.running + router.engine.waiting == 2)
        assert (await client.post("/generate", json=body)).status_code == 429
        for path in ("/livez", "/readyz", "/startupz", "/health"):
            assert (await client.get(path)).status_code == 200
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


async def test_info() -> None:
    async with started(model_id="served", max_batch_size=3, max_best_of=5) as router:
        response = await router.app.test_client().get("/info")
        assert await response.get_json() == {
            "model_id": "served",
            "model_sha": None,
            "model_dtype": "torch.float32",
            "model_device_type": "cpu",
            "model_pipeline_tag": None,
            "max_concurrent_requests": 128,
            "max_best_of": 5,
            "max_stop_sequences": 4,
            "max_input_length": 1024,
            "max_total_tokens": 2048,
            "waiting_served_ratio": 1.2,
            "max_batch_total_tokens": 65536,
            "max_waiting_tokens": 20,
            "max_batch_size": 3,
            "validation_workers": 2,
            "version": __version__,
            "sha": None,
            "docker_label": None,
        }


async def test_info_of_a_model_from_the_hub_in_a_container() -> None:
    found = Resolved(model_sha="0123", pipeline_tag="text-generation", sha="4567", docker_label="sha-4567")
    async with started(resolved=found) as router:
        told = await (await router.app.test_client().get("/info")).get_json()
    assert (told["model_sha"], told["model_pipeline_tag"]) == ("0123", "text-generation")
    assert (told["sha"], told["docker_label"]) == ("4567", "sha-4567")


async def test_metrics() -> None:
    async with started() as router:
        client = router.app.test_client()
        await client.post("/generate", json={"inputs": "x"})
        response = await client.get("/metrics")
        text = await response.get_data(as_text=True)
    assert response.headers["content-type"].startswith("text/plain")
    assert "\ntgi_request_count 1\n" in text and 'tgi_batch_inference_count{method="prefill"} 1\n' in text


GENERATING = ["/generate", "/generate_stream", "/invocations", "/tokenize"]
OPERATING = ["/health", "/ping", "/livez", "/readyz", "/startupz", "/info", "/metrics"]


@pytest.mark.parametrize(("method", "path", "status", "allow"), [
    *(("GET", path, 405, "POST") for path in GENERATING), *(("PUT", path, 405, "POST") for path in GENERATING),
    *(("HEAD", path, 405, "POST") for path in GENERATING), *(("OPTIONS", path, 200, "POST") for path in GENERATING),
    *(("POST", path, 405, "GET") for path in OPERATING), *(("DELETE", path, 405, "GET") for path in OPERATING),
    *(("HEAD", path, 200, None) for path in [*OPERATING, "/"]), *(("OPTIONS", path, 200, "GET") for path in OPERATING),
    *(("POST", f"{path}/", 404, None) for path in GENERATING), *(("GET", f"{path}/", 404, None) for path in OPERATING),
    ("GET", "/nothing", 404, None), ("POST", "/nothing", 404, None), ("GET", "/v1//models", 404, None),
    ("GET", "/info?a=b&c", 200, None),
])  # fmt: skip
async def test_paths_and_methods(method: str, path: str, status: int, allow: str | None) -> None:
    async with started() as router:
        response = await getattr(router.app.test_client(), method.lower())(path)
        assert response.status_code == status
        assert allow is None or allow in response.headers["allow"]
        if status != 200 and not path.startswith("/v1"):
            assert await response.get_data() == b"" and response.headers["content-type"].startswith("text/plain")


def test_the_router_never_loads_torch() -> None:
    code = (
        "import sys, tgi_server.router.main;"
        "heavy = 'torch', 'transformers', 'numpy', 'hydra', 'opentelemetry', 'ngrok';"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

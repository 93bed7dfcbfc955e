import subprocess
import sys

from tests.router_app import started
from tgi_server import __version__


async def test_health() -> None:
    async with started() as router:
        client = router.app.test_client()
        for path in ("/health", "/"):
            response = await client.get(path)
            assert (response.status_code, await response.get_data()) == (200, b"")
        router.shards.kill()
        response = await client.get("/health")
        assert response.status_code == 503 and (await response.get_json())["error_type"] == "healthcheck"


async def test_draining() -> None:
    async with started() as router:
        client = router.app.test_client()
        router.engine.begin_drain()
        assert (await client.get("/health")).status_code == 503
        response = await client.post("/generate", json={"inputs": "x"})
        assert response.status_code == 503 and (await response.get_json())["error_type"] == "overloaded"


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


async def test_metrics() -> None:
    async with started() as router:
        client = router.app.test_client()
        await client.post("/generate", json={"inputs": "x"})
        response = await client.get("/metrics")
        text = await response.get_data(as_text=True)
    assert response.headers["content-type"].startswith("text/plain")
    assert "\ntgi_request_count 1\n" in text and 'tgi_batch_inference_count{method="prefill"} 1\n' in text


async def test_http_errors() -> None:
    async with started() as router:
        client = router.app.test_client()
        response = await client.get("/nothing")
        assert (response.status_code, await response.get_data()) == (404, b"")
        response = await client.get("/generate")
        assert response.status_code == 405 and "POST" in response.headers["allow"]


def test_the_router_never_loads_torch() -> None:
    code = (
        "import sys, tgi_server.router.main;"
        "heavy = 'torch', 'transformers', 'numpy', 'hydra', 'opentelemetry', 'ngrok';"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

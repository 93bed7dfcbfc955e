"""The page `/docs` in a real browser."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.async_api import Browser, Locator, Route, expect

from tests.documented import DOCUMENT
from tests.integration.listening import listening
from tests.integration.test_ui import Visit, visiting
from tests.router_app import says

OPERATIONS = [
    f"operations-{operation['tags'][0].replace(' ', '_')}-{operation['operationId']}"
    for methods in DOCUMENT["paths"].values()
    for operation in methods.values()
]

PREFIX = "/behind/a/proxy"

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def execute(visit: Visit, name: str, body: Any = None) -> Locator:
    """Try an operation out; what is shown of the answer."""
    operation = visit.page.locator(f"#operations-{name}")
    await operation.locator(".opblock-summary-control").click()
    await operation.get_by_role("button", name="Try it out").click()
    if body is not None:
        await operation.locator("textarea").fill(json.dumps(body))
    await operation.get_by_role("button", name="Execute").click()
    answer = operation.locator(".live-responses-table")
    await expect(answer.locator(".response-col_status").last).to_contain_text("200")
    return answer


async def test_all_operations_are_shown(browser: Browser) -> None:
    async with listening() as (_, port), visiting(browser, port, path="/docs") as visit:
        await expect(visit.page.locator(".opblock")).to_have_count(len(OPERATIONS))
        for name in OPERATIONS:
            await expect(visit.page.locator(f"#{name}")).to_be_visible()
        await expect(visit.page.locator(".errors-wrapper")).to_have_count(0)
        await expect(visit.page.get_by_role("heading", name="Text Generation Inference").first).to_be_visible()
        assert urlsplit(visit.page.url).path == "/docs/"


async def test_operations_can_be_tried(browser: Browser) -> None:
    served: dict[str, Any] = {"choose": says("Paris, été"), "model_id": "some/model"}
    async with listening(**served) as (_, port), visiting(browser, port, path="/docs/") as visit:
        await expect(await execute(visit, "Operators-info")).to_contain_text('"model_id": "some/model"')
        answer = await execute(visit, "Text_Generation_Inference-generate")
        await expect(answer).to_contain_text('"generated_text": "Paris, été"')
        await expect(answer).to_contain_text("x-generated-tokens")
        body = {"messages": [{"role": "user", "content": "x"}], "stream": True}
        await expect(await execute(visit, "OpenAI-chat", body)).to_contain_text("data: [DONE]")


async def test_a_proxy_may_take_a_prefix_away(browser: Browser) -> None:
    async with listening(model_id="some/model") as (_, port), visiting(browser, port, path="/docs/") as visit:

        async def without_prefix(route: Route) -> None:
            await route.fulfill(response=await route.fetch(url=route.request.url.replace(PREFIX, ""), max_redirects=0))

        await visit.page.route(f"**{PREFIX}/**", without_prefix)
        before = len(visit.addresses)
        await visit.page.goto(f"http://127.0.0.1:{port}{PREFIX}/docs/")
        await expect(await execute(visit, "Operators-info")).to_contain_text('"model_id": "some/model"')
        await visit.page.unroute_all(behavior="ignoreErrors")
        paths = {urlsplit(address).path for address in visit.addresses[before:]}
    assert f"{PREFIX}/info" in paths
    assert all(path.startswith(PREFIX) or "favicon" in path for path in paths)  # the first page's may come late

"""The page `/docs` as it is served; what it does is in tests/integration/test_docs.py."""

from __future__ import annotations

import re
from urllib.parse import urljoin

import pytest

from tests.router_app import started

SERVED = ["", "start.js", "swagger-ui-bundle.js", "swagger-ui.css", "favicon-32x32.png"]


async def test_the_short_address_leads_to_the_page() -> None:
    async with started() as router:
        response = await router.app.test_client().get("/docs")
    assert response.status_code == 303
    target = response.headers["location"]
    assert urljoin("http://x/docs", target) == "http://x/docs/"
    assert urljoin("http://x/behind/a/proxy/docs", target) == "http://x/behind/a/proxy/docs/"


async def test_the_page_names_only_what_is_served_beside_it() -> None:
    async with started() as router:
        client = router.app.test_client()
        text = await (await client.get("/docs/")).get_data(as_text=True)
        script = await (await client.get("/docs/start.js")).get_data(as_text=True)
        addresses = re.findall(r'(?:src|href)="([^"]+)"', text) + re.findall(r'url: "([^"]+)"', script)
        assert set(SERVED) - {""} < set(addresses)
        for address in addresses:
            assert not address.startswith("/") and ":" not in address
            assert (await client.get(urljoin("/docs/", address))).status_code == 200
    assert "<script>" not in text and "<style" not in text and not re.search(r"\son\w+=", text)


@pytest.mark.parametrize("name", SERVED)
async def test_browsers_take_nothing_from_elsewhere(name: str) -> None:
    async with started() as router:
        client = router.app.test_client()
        response = await client.get(f"/docs/{name}")
        again = await client.get(f"/docs/{name}", headers={"if-none-match": response.headers["etag"]})
    assert (response.status_code, again.status_code) == (200, 304) and await response.get_data()
    policy = dict(part.split(" ", 1) for part in response.headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'" and policy["script-src"] == policy["connect-src"] == "'self'"
    assert policy["style-src"] == "'self'" and policy["img-src"] == "'self' data:"
    assert policy["frame-ancestors"] == policy["base-uri"] == policy["form-action"] == "'none'"
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["cache-control"] == "no-cache"


@pytest.mark.parametrize("name", [
    "index.html", "page.html", "swagger-ui.css.map", "swagger-ui-bundle.js.map", "oauth2-redirect.html", "start.js/",
    "../wire.py", "..%2fstart.js", "%2e%2e/%2e%2e/wire.py", "..%5cstart.js", "%00", "x/start.js", "//start.js",
])  # fmt: skip
async def test_nothing_else_is_served(name: str) -> None:
    async with started() as router:
        response = await router.app.test_client().get(f"/docs/{name}")
        assert (response.status_code, await response.get_data()) == (404, b"")


async def test_the_page_takes_no_posts() -> None:
    async with started() as router:
        for path in ("/docs", "/docs/", "/docs/start.js", "/api-doc/openapi.json"):
            assert (await router.app.test_client().post(path, json={})).status_code == 405

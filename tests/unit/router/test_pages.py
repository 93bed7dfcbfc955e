"""Pages for people, as they are served; what they do is in tests/integration/test_ui.py."""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser

from tests.router_app import started

SVG_NAMESPACE = "http://www.w3.org/2000/svg"


class Blocks(HTMLParser):
    """Inline styles and scripts of a document, and every address it names."""

    def __init__(self) -> None:
        super().__init__()
        self.inline: dict[str, list[str]] = {"style": [], "script": []}
        self.addresses: list[str] = []
        self.handlers: list[str] = []
        self.root: dict[str, str | None] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "html":
            self.root = dict(attrs)
        self.addresses += [value or "" for name, value in attrs if name in ("href", "src", "action")]
        self.handlers += [name for name, _ in attrs if name.startswith("on") or name == "style"]

    def handle_data(self, data: str) -> None:
        if self.lasttag in self.inline and data.strip():
            self.inline[self.lasttag].append(data)


async def test_the_page_is_one_document_that_asks_nobody_else() -> None:
    async with started(max_top_n_tokens=7) as router:
        response = await router.app.test_client().get("/ui")
    text = await response.get_data(as_text=True)
    blocks = Blocks()
    blocks.feed(text)
    assert response.status_code == 200 and response.headers["content-type"] == "text/html; charset=utf-8"
    assert all(address.startswith("data:") for address in blocks.addresses) and not blocks.handlers
    assert set(re.findall(r"https?://[^'\"\s]*", text)) <= {SVG_NAMESPACE}
    assert blocks.root["data-max-alternatives"] == "7"


async def test_browsers_run_only_what_is_in_the_page() -> None:
    async with started() as router:
        response = await router.app.test_client().get("/ui")
    blocks = Blocks()
    blocks.feed(await response.get_data(as_text=True))
    policy = dict(part.split(" ", 1) for part in response.headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'" and policy["connect-src"] == "'self'"
    for kind, contents in blocks.inline.items():
        hashes = [base64.b64encode(hashlib.sha256(content.encode()).digest()).decode() for content in contents]
        assert contents and policy[f"{kind}-src"].split(" ") == [f"'sha256-{each}'" for each in hashes]
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["referrer-policy"] == "no-referrer"
    assert response.headers["cache-control"] == "no-cache"


async def test_the_page_takes_no_posts() -> None:
    async with started() as router:
        assert (await router.app.test_client().post("/ui", json={})).status_code == 405

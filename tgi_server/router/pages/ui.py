"""Pages for people: `/ui` to try the server."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass, field
from pathlib import Path

from quart import Blueprint, Response

from tgi_server.config.schema import ServerConfig

PAGES = Path(__file__).parent

_LINKED = re.compile(r'<link rel="stylesheet" href="(?P<style>[^"]+)">|<script src="(?P<script>[^"]+)"></script>')


class PageRoutes:
    """The handlers. `guarded` tells whether requests need a key, which the page then asks for."""

    def __init__(self, config: ServerConfig, guarded: bool) -> None:
        values = {"MAX_TOP_N_TOKENS": str(config.max_top_n_tokens), "KEY_IS_NEEDED": str(guarded).lower()}
        self._ui = read_page(PAGES / "ui" / "page.html", values)

    def blueprint(self) -> Blueprint:
        """The routes."""
        blueprint = Blueprint("pages", __name__)
        blueprint.add_url_rule("/ui", view_func=self.ui, methods=["GET"])
        return blueprint

    async def ui(self) -> Response:
        """A page to chat and to complete texts, with the probabilities of all tokens and figures of the server."""
        return self._ui.response()


@dataclass(slots=True)
class Page:
    """A document that needs no other file, and the hashes of the styles and scripts that a browser may run in it."""

    text: str
    styles: list[str] = field(default_factory=list)
    scripts: list[str] = field(default_factory=list)

    def response(self) -> Response:
        """The document, under a policy that keeps everything else out: nothing foreign, and no text run as code."""
        policy = [
            "default-src 'none'",
            "connect-src 'self'",
            "img-src data:",
            " ".join(["style-src", *self.styles]),
            " ".join(["script-src", *self.scripts]),
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        ]
        headers = {
            "content-security-policy": "; ".join(policy),
            "x-content-type-options": "nosniff",
            "referrer-policy": "no-referrer",
            "cache-control": "no-cache",
        }
        return Response(self.text, content_type="text/html; charset=utf-8", headers=headers)


def read_page(path: Path, values: dict[str, str]) -> Page:
    """The page at `path` with its `values` filled in, and the styles and scripts it links to written into it."""
    text = path.read_text(encoding="utf-8")
    for name, value in values.items():
        text = text.replace(name, value)
    page = Page(text)

    def inlined(match: re.Match[str]) -> str:
        kind = match.lastgroup
        assert kind is not None
        content = (path.parent / match[kind]).read_text(encoding="utf-8")
        hashes = page.styles if kind == "style" else page.scripts
        hashes.append(_source_hash(content))
        return f"<{kind}>{content}</{kind}>"

    page.text = _LINKED.sub(inlined, text)
    return page


def _source_hash(content: str) -> str:
    """How a content security policy names an inline style or script."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"

"""`/docs`, a page that describes the HTTP interface and lets people try it, and the document that it is made from."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

from quart import Blueprint, Response, abort, send_file
from swagger_ui_bundle import swagger_ui_path

from tgi_server.router.http.wire import dumps
from tgi_server.router.pages.ui import PAGES

DOCUMENT = "/api-doc/openapi.json"

FILES = {
    "": (PAGES / "docs" / "page.html", "text/html"),
    "start.js": (PAGES / "docs" / "start.js", "text/javascript"),
    "swagger-ui-bundle.js": (swagger_ui_path / "swagger-ui-bundle.js", "text/javascript"),
    "swagger-ui.css": (swagger_ui_path / "swagger-ui.css", "text/css"),
    "favicon-32x32.png": (swagger_ui_path / "favicon-32x32.png", "image/png"),
}
"""What there is below `/docs/`, and nothing else."""

HEADERS = {
    "content-security-policy": "default-src 'none'; connect-src 'self'; img-src 'self' data:; script-src 'self'; "
    "style-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}


class DocsRoutes:
    """The handlers; `document` describes the interface (OpenAPI 3.0)."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self._described = document

    def blueprint(self) -> Blueprint:
        """The routes."""
        blueprint = Blueprint("docs", __name__)
        blueprint.add_url_rule("/docs", view_func=self.to_page, methods=["GET"])
        blueprint.add_url_rule("/docs/", view_func=self.file, defaults={"name": ""}, methods=["GET"])
        blueprint.add_url_rule("/docs/<name>", view_func=self.file, methods=["GET"])
        blueprint.add_url_rule(DOCUMENT, view_func=self.document, methods=["GET"])
        return blueprint

    async def to_page(self) -> Response:
        """To where the page is; relative, as the address may be another one in front of a proxy."""
        return Response(b"", status=303, content_type="text/plain", headers={"location": "docs/"})

    async def file(self, name: str) -> Response:
        """A part of the page."""
        if name not in FILES:
            abort(404)
        path, kind = FILES[name]
        response = await send_file(path, mimetype=kind, conditional=True, cache_timeout=0)
        response.headers.update(HEADERS)
        return response

    async def document(self) -> Response:
        """The description for programs."""
        return Response(self._document, content_type="application/json")

    @cached_property
    def _document(self) -> bytes:
        return dumps(self._described)

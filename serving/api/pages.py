"""The pages: a forecast by hand, and the routes. Plain files, all of them from here."""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter, Response
from fastapi.responses import HTMLResponse

import serving
from serving.callers import needs
from serving.problems import Problem

router = APIRouter(tags=["service"])
WEB = Path(serving.__path__[0]) / "web"
MEDIA = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
}
POLICY = "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
ASSETS = frozenset(file.name for file in WEB.iterdir() if file.suffix in (".js", ".css"))


@router.get("/", dependencies=[needs("open")], response_class=HTMLResponse)
async def page() -> Response:
    """A page for a forecast by hand."""
    return _file("page.html")


@router.get("/docs", dependencies=[needs("local")], response_class=HTMLResponse)
async def docs() -> Response:
    """A page that lists the routes."""
    return _file("docs.html")


@router.get("/assets/{name}", dependencies=[needs("open")], include_in_schema=False)
async def asset(name: str) -> Response:
    """A file of a page."""
    if name not in ASSETS:
        raise Problem("not-found", "There is no such file.")
    return _file(name)


def _file(name: str) -> Response:
    file = WEB / name
    headers = {"Content-Security-Policy": POLICY}
    return Response(file.read_bytes(), 200, headers, MEDIA[file.suffix])

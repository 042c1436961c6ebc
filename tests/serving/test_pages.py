"""The pages: served whole from here under a strict policy, and working in a real browser."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from pipelines.home import Home
from serving.api.pages import ASSETS, WEB
from serving.settings import Settings
from tests.serving.running import Running, application, forecaster, listening, publish

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
QUIET = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_all_of_a_page_comes_from_here(service: Running, path: str) -> None:
    """An installation without a way out must show its pages, and nobody must learn who looks."""
    page = service.client.get(path)
    assert page.status_code == 200
    assert "default-src 'self'" in page.headers["content-security-policy"]
    assert page.headers["x-content-type-options"] == "nosniff"
    asked = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert asked
    for address in asked:
        assert address.startswith("/")
        assert service.client.get(address).status_code == 200, address
    assert not re.search(r"<script(?![^>]*src=)|\son\w+=|\sstyle=", page.text)


def test_no_asset_reaches_out_or_writes_markup() -> None:
    """A name of a model or a series is text, whatever it says."""
    for name in ASSETS:
        text = (WEB / name).read_text(encoding="utf-8")
        assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(", text)
        assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", text)


def test_files_beside_the_pages_are_not_served(service: Running) -> None:
    for name in ("page.html", "..%2fapp.py", "nothing.js", "%2e%2e"):
        assert service.client.get(f"/assets/{name}").status_code == 404


@pytest.mark.skipif(CHROMIUM is None, reason="There is no chromium here.")
def test_a_person_gets_a_forecast_in_a_browser(
    empty: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Choose the example, ask, and see a line, an interval and the version that answered."""
    publish(empty, "shop", forecaster(seed=1), tmp_path / "shop")
    driven = tmp_path / "driven.js"
    driven.write_text(
        (WEB / "page.js").read_text(encoding="utf-8")
        + '\nat("sample").click();\nat("ask").requestSubmit();\n'
    )
    monkeypatch.setattr("serving.api.pages.WEB", copied(tmp_path, driven))
    app = application(empty, Settings.read({"jobs": {"at_once": 0}}))
    for running in listening(app):
        dom = dumped(str(running.client.base_url), tmp_path / "profile")
    assert "shop version 1, direct; band: 10 % to 90 %" in dom
    assert dom.count("<polygon") == 1
    assert re.search(r'class="mean" d="M[\d.,L]+"', dom)
    assert 'id="problem" role="alert" hidden' in dom


def copied(folder: Path, script: Path) -> Path:
    """The pages with another script in place of page.js: somebody who clicks."""
    web = Path(shutil.copytree(WEB, folder / "web"))
    shutil.copy(script, web / "page.js")
    return web


def dumped(url: str, profile: Path) -> str:
    """The page as it stands after its scripts have run."""
    assert CHROMIUM is not None
    command = [CHROMIUM, *QUIET, f"--user-data-dir={profile}", "--virtual-time-budget=20000",
               "--dump-dom", url]  # fmt: skip
    shown = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return shown.stdout

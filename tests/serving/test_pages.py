"""The pages: served whole from here under a strict policy, and working in a real browser."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from pipelines.home import Home
from pipelines.registry import Registry
from serving.api.pages import ASSETS, WEB
from serving.settings import Settings
from tests.figures import Told
from tests.serving.keyed import Tenants
from tests.serving.running import (
    Running,
    application,
    forecaster,
    listening,
    publish,
    series,
    stamps,
)

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
    policy = page.headers["content-security-policy"].split("; ")
    assert {"default-src 'self'", "frame-ancestors 'none'"} <= {*policy}
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


HOSTILE = [
    *("<script>document.title = 'pwned'</script>", "<img src=x onerror=document.title='pwned'>"),
    *(
        "<svg/onload=document.title='pwned'>",
        "</option></select><b id=pwned>",
        "</textarea><b id=pwned>",
    ),
    *("'\"><b id=pwned>", "javascript:document.title='pwned'", "${document.title='pwned'}"),
    *(
        "{{document.title='pwned'}}",
        "<!--",
        "-->",
        "]]>",
        "<style>*{display:none}</style>",
        "%3Cb%3E",
    ),
    *(
        "&lt;b id=pwned&gt;",
        "&#60;b&#62;",
        "<iframe src=//example.com>",
        "<base href=//example.com>",
    ),
    *("<meta http-equiv=refresh content=0>", "<link rel=stylesheet href=//example.com/x>"),
    *(
        "<a href=//example.com>x</a>",
        "<form action=//example.com>",
        "<object data=x>",
        "<math><mi>",
    ),
    *(
        "\u202egnp.exe",
        "=cmd|' /C calc'!A1",
        "constructor",
        "__proto__",
        "../../etc/passwd",
        "x' OR 1=1",
    ),
]


@pytest.mark.skipif(CHROMIUM is None, reason="There is no chromium here.")
def test_hostile_names_are_text_in_a_browser(
    empty: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record_property: Told
) -> None:
    """S13: a name from somebody's table must not run in the browser of who looks at it."""
    publish(empty, "shop", forecaster(seed=1), tmp_path / "shop")
    registry = Registry(empty)
    with registry.link.writing() as client:  # as somebody may do in MLflow
        for name in ("<b id=pwned>", "my model (v2)"):
            client.create_registered_model(name)
    rows = [f'"{name.replace(chr(34), chr(34) * 2)}",{stamp},{y}' for name in HOSTILE
            for stamp, y in zip(stamps(30), series(30), strict=True)]  # fmt: skip
    csv = json.dumps("\n".join(["unique_id,ds,y", *rows]))
    script = f'\nat("csv").value = {csv}; readNames(); at("ask").requestSubmit();\n'
    monkeypatch.setattr("serving.api.pages.WEB", copied(tmp_path, script))
    for running in listening(application(empty, Settings.read({"jobs": {"at_once": 0}}))):
        names = [one["name"] for one in running.client.get("/v1/models").json()["items"]]
        assert [name for name in names if "(" in name or "<" in name] == []
        dom = dumped(str(running.client.base_url), tmp_path / "profile")
    options = re.search(r'<select id="shown"[^>]*>(.*?)</select>', dom, re.DOTALL)
    assert options is not None
    shown = [
        html.unescape(text) for text in re.findall(r"<option[^>]*>([^<]*)</option>", options[1])
    ]
    assert shown == HOSTILE
    assert not re.search(r"<(?:title)>pwned|<b id=|<iframe|<object|<base|<img", dom)
    record_property(
        "S13", f"{len(shown)} hostile names shown as text in chromium, 0 elements of them"
    )


def test_a_cookie_is_no_key(tenants: Tenants) -> None:
    """S13: a form on another site sends cookies along, and must change nothing by them."""
    key = tenants.keys["ads", "operator"]
    cookies = {"Authorization": f"Bearer {key}", "key": key, "token": key}
    sent = "; ".join(f"{name}={value}" for name, value in cookies.items())
    for path in ("/v1/forecasts", "/v1/datasets", "/v1/models/small/rollback", "/v1/jobs"):
        reply = tenants.running.client.post(path, json={}, headers={"Cookie": sent})
        assert reply.status_code == 401


@pytest.mark.skipif(CHROMIUM is None, reason="There is no chromium here.")
def test_a_person_gets_a_forecast_in_a_browser(
    empty: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Choose the example, ask, and see a line, an interval and the version that answered."""
    script = '\nat("sample").click();\nat("ask").requestSubmit();\n'
    dom = after(script, empty, tmp_path, monkeypatch)
    assert "shop version 1, direct; band: 10 % to 90 %" in dom
    assert dom.count("<polygon") == 1
    assert re.search(r'class="mean" d="M[\d.,L]+"', dom)
    assert 'id="problem" role="alert" hidden' in dom


# Counts what the browser keeps, and asks three times.
COUNTED = """
const kept = new Set(), { createObjectURL, revokeObjectURL } = URL;
URL.createObjectURL = (blob) => { const url = createObjectURL(blob); kept.add(url); return url; };
URL.revokeObjectURL = (url) => { kept.delete(url); revokeObjectURL(url); };
at("sample").click();
for (let times = 0; times < 3; times += 1) await guarded(forecast);
at("state").textContent = `${kept.size} kept, ${kept.has(at("download").href)}`;
"""


@pytest.mark.skipif(CHROMIUM is None, reason="There is no chromium here.")
def test_only_the_last_forecast_is_kept_for_download(
    empty: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page that stays open on a wall would take more memory with every forecast."""
    assert "1 kept, true" in after(COUNTED, empty, tmp_path, monkeypatch)


def after(script: str, home: Home, folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The page of a service with one model, as it stands after `script` has run in it."""
    publish(home, "shop", forecaster(seed=1), folder / "shop")
    monkeypatch.setattr("serving.api.pages.WEB", copied(folder, script))
    for running in listening(application(home, Settings.read({"jobs": {"at_once": 0}}))):
        dom = dumped(str(running.client.base_url), folder / "profile")
    return dom


def copied(folder: Path, script: str) -> Path:
    """The pages, with `script` at the end of page.js: somebody who clicks."""
    web = Path(shutil.copytree(WEB, folder / "web"))
    with (web / "page.js").open("a", encoding="utf-8") as page:
        page.write(script)
    return web


def dumped(url: str, profile: Path) -> str:
    """The page as it stands after its scripts have run."""
    assert CHROMIUM is not None
    command = [CHROMIUM, *QUIET, f"--user-data-dir={profile}", "--virtual-time-budget=20000",
               "--dump-dom", url]  # fmt: skip
    shown = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return shown.stdout

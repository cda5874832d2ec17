"""Every page in both colour schemes and at both widths: accessible, whole, light, and text as text."""

import json
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from typing import Literal

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, Request, expect

from app.models import TaskStatus
from tests.browser.houses import House
from tests.browser.visitors import WIDTHS, Visitors, sideways
from tests.factories import failure, make_task

BUDGET_BYTES = 100_000
SCHEMES: Sequence[Literal["light", "dark"]] = ("light", "dark")
HOSTILE = (
    "<script>alert(1)</script><img src=x onerror=alert(1)>\u202e\u2066 nul \x00 "
    "{{ 7 * 7 }} </textarea></title>" + "w" * 31_000
)


@pytest.fixture(scope="module")
def paths(lived_in: House) -> Mapping[str, str]:
    """All pages, with something on each of them that its writer did not mean well."""
    good = lived_in.finished("a good one")
    cut = HOSTILE[:500]
    hostile = lived_in.submit(
        f"{HOSTILE} [never]", model=HOSTILE[:100], trace_id=HOSTILE[:128],
        metadata={HOSTILE[:60]: cut}, unheard_of=HOSTILE,
    )  # fmt: skip
    lived_in.post_back(hostile, json.dumps(failure(HOSTILE[:60], HOSTILE)).encode())
    lived_in.post_back(hostile, b'{"task_id": "' + HOSTILE.encode() + b'"}')
    endpoint = lived_in.call(
        "POST",
        "/v1/endpoints",
        {"url": f"{lived_in.sandbox.url}/{'x' * 1500}", "description": cut.replace("\x00", "")},
    )
    lived_in.new_key(HOSTILE[:90])
    refused = lived_in.call("GET", "/v1/callbacks?verdict=rejected")["items"]
    return {
        "overview": "/",
        "task": f"/tasks/{good}",
        "hostile": f"/tasks/{hostile}",
        "rejections": "/rejections",
        "endpoints": "/endpoints",
        "endpoint": f"/endpoints/{endpoint['id']}",
        "keys": "/keys",
        "status": "/status",
        "body": f"/bodies/{refused[0]['id']}",
        "login": "/login",
        "docs": "/docs",
        "missing": "/nothing-here",
    }


PAGES = (
    "overview", "task", "hostile", "rejections", "endpoints", "endpoint", "keys", "status", "body",
    "login", "docs", "missing",
)  # fmt: skip


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_accessible_and_whole(
    visitors: Visitors, paths: Mapping[str, str], name: str
) -> None:
    visitors.expected = ["status of 404"]
    page = visitors.visit(paths[name], key=None if name in {"login", "status", "docs"} else "admin")
    _open_all(page)
    for (width, height), scheme in product(WIDTHS.values(), SCHEMES):
        page.set_viewport_size({"width": width, "height": height})
        page.emulate_media(color_scheme=scheme)
        assert sideways(page) == 0, width
        found = Axe().run(page)
        assert found.violations_count == 0, found.generate_report()


def _open_all(page: Page) -> None:
    # What is folded away is looked at, too.
    page.evaluate(
        "for (const each of document.querySelectorAll('details:not(.ask)')) each.open = true"
    )


def test_without_scripts_every_page_is_whole(
    visit: Callable[..., Page], visitors: Visitors, paths: Mapping[str, str]
) -> None:
    visitors.expected = ["status of 404"]
    page = visit("/", scripts=False, size="phone")
    for name in PAGES:
        page.goto(paths[name])
        assert page.locator("h1").count() == 1, name
        assert page.locator(".js-only:visible").count() == 0, name
    page.goto(paths["task"])
    for panel in ("request", "callbacks", "images", "deliveries", "audit"):
        assert page.locator(f"#{panel}").is_visible()


@pytest.mark.usefixtures("paths")
def test_the_first_page_is_light(visit: Callable[..., Page], lived_in: House) -> None:
    """As who has never been here gets it, all but the pictures."""
    ended = {"status": TaskStatus.CANCELED}
    for number in range(50):
        make_task(lived_in.parts, prompt=f"{number} " + "\u8bcd" * 300, columns=ended)
    page = visit("/status", key="admin")
    page.context.new_cdp_session(page).send("Network.clearBrowserCache")
    finished: list[Request] = []
    page.on("requestfinished", lambda request: finished.append(request))  # noqa: PLW0108 - it wants a function
    page.goto("/")
    expect(page.locator("#live")).to_have_text("Live")
    sizes = {
        request.url: sum(
            request.sizes()[part] for part in ("responseBodySize", "responseHeadersSize")
        )
        for request in finished
        if request.resource_type != "image"
    }
    assert page.locator("#rows > li").count() == 50
    assert len(sizes) >= 6, sizes
    assert sum(sizes.values()) < BUDGET_BYTES, sizes

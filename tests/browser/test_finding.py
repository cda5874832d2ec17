"""Finding tasks: filters and pages in the address, by keyboard, and why something did not arrive."""

import re
from collections.abc import Callable

import pytest
from playwright.sync_api import Page, Route, expect

from app.models import TaskStatus
from tests.browser.houses import House
from tests.browser.visitors import Visitors
from tests.factories import make_task


@pytest.fixture(scope="module")
def many(lived_in: House) -> list[str]:
    """More tasks than a page holds, the oldest first; one of them has failed."""
    tasks = [
        make_task(
            lived_in.parts,
            prompt=f"heap {number:02}",
            image=lived_in.sandbox.photo,
            model="gpt-image-1.5",
            columns={"status": TaskStatus.FAILED if number == 30 else TaskStatus.CANCELED},
        )
        for number in range(60)
    ]
    return [str(task.id) for task in tasks]


def prompts(page: Page) -> list[str]:
    return page.locator("#rows a.over").all_inner_texts()


@pytest.mark.usefixtures("many")
@pytest.mark.parametrize("scripts", [True, False], ids=["scripts", "no scripts"])
def test_pages_do_not_shift_while_new_tasks_come(
    visit: Callable[..., Page], lived_in: House, scripts: bool
) -> None:
    page = visit("/?q=heap", scripts=scripts)
    first = prompts(page)
    assert first == [f"heap {number:02}" for number in reversed(range(10, 60))]
    more = lived_in.finished("a heap more")
    page.get_by_role("link", name="Older").click()
    expect(page.locator("#rows > li")).to_have_count(10)
    assert prompts(page) == [f"heap {number:02}" for number in reversed(range(10))]
    page.go_back()
    expect(page.locator("#rows > li").nth(49)).to_be_visible()
    page.get_by_role("link", name="Older").click()
    page.get_by_role("link", name="Newest").click()
    expect(page.locator("#rows a.over").first).to_have_text("a heap more")
    lived_in.call("DELETE", f"/v1/tasks/{more}")


def test_filters_act_at_once_and_are_in_the_address(
    visit: Callable[..., Page], many: list[str]
) -> None:
    page = visit("/")
    page.get_by_label("Id or words of the prompt").fill("heap")
    expect(page).to_have_url(re.compile(r"\?q=heap$"))
    page.get_by_label("Status", exact=True).select_option("failed")
    expect(page.locator("#rows > li")).to_have_count(1)
    expect(page).to_have_url(re.compile(r"q=heap&status=failed$"))
    page.get_by_label("Model").select_option("gpt-image-1.5") if page.get_by_label("Model").locator(
        "option"
    ).count() > 1 else None
    page.get_by_label("Period").select_option("1h")
    expect(page).to_have_url(re.compile(r"period=1h$"))
    assert prompts(page) == ["heap 30"]

    page.locator("#rows a.over").click()
    expect(page.locator("h1")).to_have_text("heap 30")
    page.go_back()
    expect(page.get_by_label("Status", exact=True)).to_have_value("failed")
    assert prompts(page) == ["heap 30"]

    page.get_by_label("Id or words of the prompt").fill("there is no such thing")
    expect(page.get_by_text("Nothing matches these filters.")).to_be_visible()
    page.get_by_role("link", name="Clear filters").click()
    expect(page.locator("#rows > li").nth(20)).to_be_visible()
    page.goto(f"/?q={many[7][:20]}")
    assert "heap 07" in prompts(page)


@pytest.mark.usefixtures("many")
def test_loading_and_failing_are_told(visit: Callable[..., Page], visitors: Visitors) -> None:
    visitors.expected = ["Failed to load resource"]
    page = visit("/")
    held: list[Route] = []
    page.route("**/?q=*", lambda route: held.insert(0, route))
    page.get_by_label("Id or words of the prompt").fill("heap 01")
    expect(page.locator("#main")).to_have_attribute("aria-busy", "true")
    loading = "getComputedStyle(document.querySelector('#main'), '::after').content"
    assert page.evaluate(loading) == '"Loading…"'
    held[0].abort()
    expect(page.get_by_role("alert")).to_contain_text("could not be loaded")
    page.unroute_all()
    page.get_by_role("button", name="Retry").click()
    expect(page.locator("#rows a.over").first).to_have_text("heap 01")


@pytest.mark.usefixtures("many")
def test_everything_goes_by_keyboard(visit: Callable[..., Page]) -> None:
    page = visit("/?q=heap+4")
    rows = page.locator("#rows > li")
    page.keyboard.press("j")
    page.keyboard.press("j")
    expect(rows.nth(1).locator("a.over")).to_be_focused()
    page.keyboard.press("k")
    expect(rows.nth(0).locator("a.over")).to_be_focused()
    chosen = rows.nth(0).locator("a.over").inner_text()
    page.keyboard.press("Enter")
    expect(page.locator("h1")).to_have_text(chosen)

    page.get_by_role("tab", name="Request").focus()
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("tab", name="Callbacks")).to_be_focused()
    expect(page.locator("#callbacks")).to_be_visible()
    expect(page.locator("#request")).to_be_hidden()
    page.keyboard.press("Escape")
    page.keyboard.press("Escape")
    expect(page).to_have_url(re.compile(r"\?q=heap\+4$"))
    # From where one has been it goes on.
    expect(rows.nth(0).locator("a.over")).to_be_focused()

    page.keyboard.press("/")
    expect(page.get_by_label("Id or words of the prompt")).to_be_focused()
    page.keyboard.press("Escape")
    page.keyboard.press("?")
    expect(page.get_by_role("dialog")).to_contain_text("next, previous row")
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_be_hidden()


def test_before_and_after_by_keyboard(visit: Callable[..., Page], lived_in: House) -> None:
    task_id = lived_in.finished("mirror", n=2)
    page = visit(f"/tasks/{task_id}")
    slider = page.get_by_label("How much of the image before the edit is shown")
    slider.focus()
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    shown = "document.querySelector('.compare').style.getPropertyValue('--at')"
    assert page.evaluate(shown) == "1%"
    for image in page.locator(".compare img").all():
        assert image.evaluate("image => image.decode().then(() => image.naturalWidth)") > 0
    page.get_by_role("button", name="Compare image 2").click()
    second = page.get_by_alt_text("Image 2, in full size").locator("..").get_attribute("href")
    # The choice outlasts what comes anew from the server.
    page.evaluate(
        """() => new Promise((done) => {
            document.addEventListener("postback:drawn", () => done(), { once: true });
            document.dispatchEvent(new CustomEvent("postback:refresh"));
        })"""
    )
    expect(page.locator(".compare .after img")).to_have_attribute("src", str(second))

    still = visit(f"/tasks/{task_id}", scripts=False)
    for words in ("Before: the image that was sent", "After: the first result"):
        box = still.get_by_alt_text(words).bounding_box()
        assert box
        assert box["width"] > 200


def test_times_are_in_utc_or_local(visit: Callable[..., Page], lived_in: House) -> None:
    task_id = lived_in.finished("what time is it")
    page = visit(f"/tasks/{task_id}")
    time = page.locator("#head time").first
    expect(time).to_have_text(re.compile(r"ago|now"))
    expect(time).to_have_attribute("title", re.compile(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC$"))
    page.get_by_role("button", name="Show times in local time or UTC").click()
    page.reload()
    expect(page.locator("[data-zone]")).to_have_text("Local")


def test_why_it_did_not_arrive(visit: Callable[..., Page], lived_in: House) -> None:
    task_id = lived_in.submit("refused [never]")
    page = visit("/rejections")
    page.locator("#q").fill(task_id)
    expect(page.locator(".flash")).to_contain_text("Nothing has come in for it")
    lived_in.post_back(task_id, b'{"broken": ')
    page.reload()
    expect(page.locator(".flash")).to_contain_text("What came in for it was refused")
    row = page.locator("#rows > li")
    expect(row).to_contain_text("not JSON")
    expect(row).to_contain_text("127.0.0.1")
    row.locator("a.over").click()
    for form, words in (("Text", '{"broken":'), ("Hex", "7b 22 62 72 6f 6b 65 6e")):
        page.get_by_role("link", name=form, exact=True).click()
        expect(page.get_by_label("The body", exact=True)).to_contain_text(words)
    with page.expect_download() as download:
        page.get_by_role("link", name="Download").click()
    assert download.value.path().read_bytes() == b'{"broken": '

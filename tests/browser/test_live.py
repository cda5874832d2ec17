"""What happens is seen as it happens, and nothing moves under the pointer."""

from collections.abc import Callable
from pathlib import Path

from playwright.sync_api import Browser, Page, expect

from tests.browser.houses import House, house
from tests.browser.visitors import Visitors, sign_in
from tests.servers.service import Sandbox


def test_the_first_task_appears_by_itself(
    chromium: Browser, browser_sandbox: Sandbox, migrated_sqlite: Path, tmp_path: Path
) -> None:
    with (
        house(browser_sandbox, migrated_sqlite, tmp_path) as unused,
        Visitors(chromium, unused).watching() as visitors,
    ):
        page = visitors.visit("/")
        command = page.locator("#first-curl")
        expect(command).to_contain_text(f"curl {unused.url}/v1/images/edits")
        expect(page.get_by_role("heading", name="No task yet")).to_be_visible()
        for path, words in (
            ("/rejections", "Nothing has been refused"),
            ("/endpoints", "No endpoint yet"),
        ):
            expect(visitors.visit(path).get_by_text(words)).to_be_visible()

        task_id = unused.submit("the very first [late 1]")
        row = page.locator(f"#t-{task_id}")
        expect(row).to_contain_text("the very first")
        expect(row.locator(".status")).to_have_text("succeeded")
        expect(row.locator("img")).to_be_visible()
        expect(page.locator("#live")).to_have_text("Live")
        expect(command).to_have_count(0)


def test_new_tasks_wait_until_they_are_asked_for(
    visit: Callable[..., Page], lived_in: House
) -> None:
    old = lived_in.submit("still at work [late 4]")
    page = visit("/")
    row = page.locator(f"#t-{old}")
    row.hover()
    place = row.bounding_box()
    first = page.locator("#rows > li").first.get_attribute("id")

    new = [lived_in.submit(f"newcomer {number}") for number in range(3)]
    expect(page.locator("#newer")).to_have_text("3 new")
    expect(row.locator(".status")).to_have_text("succeeded")
    assert page.locator("#rows > li").first.get_attribute("id") == first
    assert row.bounding_box() == place

    page.keyboard.press("n")
    expect(page.locator("#rows > li").first).to_have_id(f"t-{new[2]}")
    expect(page.locator("#newer")).to_be_empty()


def test_partial_images_are_seen_as_they_come(visit: Callable[..., Page], lived_in: House) -> None:
    task_id = lived_in.submit(
        "a drawing", provider="agcloud", stream=True, partial_images=2, model="gpt-image-2"
    )
    page = visit(f"/tasks/{task_id}")
    partial = page.get_by_alt_text("Partial image 1")
    expect(partial).to_be_visible()
    assert partial.evaluate("image => image.decode().then(() => image.naturalWidth)") > 0
    expect(page.locator("#head .status")).to_have_text("succeeded")
    expect(page.get_by_alt_text("After: the first result")).to_be_visible()
    expect(page.locator("#timeline")).to_contain_text("Succeeded")


def test_a_hidden_page_asks_for_nothing(visit: Callable[..., Page], lived_in: House) -> None:
    lived_in.submit("there before")
    page = visit("/")
    expect(page.locator("#live")).to_have_text("Live")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    hide = """hidden => {
        Object.defineProperty(document, "hidden", { value: hidden, configurable: true });
        document.dispatchEvent(new Event("visibilitychange"));
    }"""
    page.evaluate(hide, True)
    expect(page.locator("#live")).to_have_text("Paused")
    lived_in.finished("while nobody looks")
    assert asked == []
    page.evaluate(hide, False)
    expect(page.locator("#live")).to_have_text("Live")
    expect(page.locator("#newer")).to_have_text("1 new")


def test_without_a_stream_it_asks_and_tells_when_nobody_answers(
    visit: Callable[..., Page], visitors: Visitors, lived_in: House
) -> None:
    visitors.expected = ["Failed to load resource"]
    page = visit("/login", key=None)
    page.route("**/events", lambda route: route.abort())
    sign_in(page, lived_in.admin)
    expect(page.locator("#live")).to_have_text("Every 5 s")
    lived_in.submit("found by asking")
    expect(page.locator("#newer")).to_have_text("1 new")

    page.route(lambda url: "until=" in url, lambda route: route.abort())
    page.keyboard.press("r")
    expect(page.locator("#live")).to_have_text("No answer, trying again")
    page.unroute_all()
    expect(page.locator("#live")).to_have_text("Every 5 s")

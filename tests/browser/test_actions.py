"""Each act by its button: what it does, that it is written down, and that a viewer has none."""

import re
from collections.abc import Callable
from uuid import UUID

import pytest
from playwright.sync_api import Page, expect
from sqlalchemy import select

from app.models import Audit, Scope, Task, TaskStatus
from tests.acceptance.waiting import until
from tests.browser.houses import House
from tests.browser.visitors import Visitors, sign_in


def acts(house: House, subject: str) -> list[tuple[str, str]]:
    """What was done to it, and by whom."""
    with house.parts.db.reading() as session:
        rows = session.scalars(select(Audit).filter_by(subject=subject).order_by(Audit.id))
        return [(row.actor, row.action) for row in rows]


def sure(page: Page, label: str, button: str) -> None:
    """Press what asks first, and then that one is sure."""
    page.locator("summary", has_text=label).click()
    page.get_by_role("button", name=button).click()


def standing(house: House, task_id: str, **columns: object) -> None:
    """Put the task where it would take long to get."""
    with house.parts.db.transaction() as session:
        for name, value in columns.items():
            setattr(session.get_one(Task, UUID(task_id)), name, value)


@pytest.mark.parametrize("scripts", [True, False], ids=["scripts", "no scripts"])
def test_a_task_is_submitted_again_and_deleted(
    visit: Callable[..., Page], lived_in: House, scripts: bool
) -> None:
    task_id = lived_in.finished("pay for me twice")
    page = visit(f"/tasks/{task_id}", scripts=scripts)
    page.locator("summary", has_text="Submit again").click()
    expect(page.get_by_text("paid for once more")).to_be_visible()
    page.get_by_role("button", name="Submit and pay again").click()
    page.wait_for_url(lambda url: task_id not in url)
    expect(page.get_by_text("This is the new task.")).to_be_visible()
    expect(page.locator("h1")).to_have_text("pay for me twice")
    copy = page.url.rpartition("/")[2]
    until(lambda: lived_in.task(copy)["status"] == "succeeded", copy)

    page.reload()
    sure(page, "Delete", "Delete for good")
    expect(page.get_by_text("The task is deleted")).to_be_visible()
    assert page.request.get(f"/tasks/{copy}").status == 404
    assert acts(lived_in, task_id) == [("ops", "resubmit")]
    assert acts(lived_in, copy) == [("ops", "delete")]


def test_a_task_is_asked_for_copied_again_and_canceled(
    visit: Callable[..., Page], lived_in: House
) -> None:
    made = len(lived_in.sandbox.state()["images_made"])
    silent = lived_in.submit("nobody calls back [never]")
    until(lambda: len(lived_in.sandbox.state()["images_made"]) > made, silent)
    page = visit(f"/tasks/{silent}")
    page.get_by_role("button", name="Ask the provider now free").click()
    expect(page.get_by_text("The provider is being asked.")).to_be_visible()
    expect(page.locator("#head .status")).to_have_text("succeeded")
    page.get_by_role("tab", name="Audit").click()
    expect(page.get_by_role("tabpanel")).to_contain_text("reconcile by ops from 127.0.0.1")

    broken = lived_in.finished("no picture at all [not an image]")
    page.goto(f"/tasks/{broken}")
    page.get_by_role("button", name="Copy images again free").click()
    expect(page.get_by_text("The images are being copied again.")).to_be_visible()

    queued = lived_in.finished("to be taken back")
    standing(lived_in, queued, status=TaskStatus.QUEUED, submitted_at=None, finished_at=None)
    page.goto(f"/tasks/{queued}")
    page.get_by_role("button", name="Cancel free").click()
    expect(page.locator("#head .status")).to_have_text("canceled")
    # Somebody else was quicker: that is said, and is no error page.
    standing(lived_in, queued, status=TaskStatus.QUEUED)
    page.reload()
    standing(lived_in, queued, status=TaskStatus.CANCELED)
    page.get_by_role("button", name="Cancel free").click()
    expect(page.get_by_role("alert")).to_contain_text("only a queued task can be canceled")


def test_an_endpoint_from_its_making_to_its_end(
    visit: Callable[..., Page], visitors: Visitors, lived_in: House
) -> None:
    visitors.expected = ["status of 400"]
    page = visit("/endpoints")
    if not page.get_by_label("Address").is_visible():
        page.locator("summary", has_text="New endpoint").click()
    page.get_by_label("Address").fill("http://10.0.0.1/private")
    page.get_by_role("button", name="Add endpoint").click()
    expect(page.get_by_role("alert")).to_contain_text("url: 10.0.0.1")
    # Nothing comes from the server that would take what was entered.
    expect(page.locator("main:not([data-live])")).to_be_visible()
    page.get_by_label("Address").fill(f"{lived_in.sandbox.url}/sandbox/nowhere")
    page.get_by_label("Description").fill("<b>shop</b>")
    page.get_by_label("task.succeeded").check()
    page.get_by_role("button", name="Add endpoint").click()
    secret = page.locator("#secret").inner_text()
    assert re.fullmatch(r"whsec_\S{40,}", secret)
    endpoint = page.locator("#head code").first.inner_text()

    page.goto(f"/endpoints/{endpoint}")
    assert secret not in page.content()
    page.get_by_role("button", name="Test").click()
    expect(page.get_by_text("An example is on its way")).to_be_visible()
    delivery = page.locator(".delivery").first
    expect(delivery).to_contain_text("last 404")
    delivery.locator("summary").click()
    expect(delivery).to_contain_text("404")
    delivery.get_by_role("button", name="Redeliver").click()
    expect(page.get_by_text("It is being delivered again.")).to_be_visible()
    # The schedule may have had its turn in between.
    expect(page.get_by_label(re.compile("0 of the last [2-9] attempts delivered"))).to_be_visible()
    expect(page.locator(".delivery").first).to_contain_text(re.compile("[2-9] attempts"))

    sure(page, "Recover", "Send what is missing")
    expect(
        page.get_by_text("are on their way").or_(page.get_by_text("Nothing was missing"))
    ).to_be_visible()
    sure(page, "Rotate secret", "Make a new secret")
    assert page.locator("#secret").inner_text() != secret
    page.goto(f"/endpoints/{endpoint}")
    sure(page, "Disable", "Disable it")
    expect(page.locator("#head")).to_contain_text("by hand")
    expect(page.locator("#audit")).to_contain_text("by ops from 127.0.0.1")
    sure(page, "Enable", "Enable it")
    expect(page.locator("#head .status").first).to_have_text("enabled")
    sure(page, "Delete", "Delete for good")
    expect(page.get_by_text("The endpoint is deleted.")).to_be_visible()
    assert [action.split()[0] for _, action in acts(lived_in, endpoint)] == [
        "create", "test", "recover", "rotate", "change", "change", "delete",
    ]  # fmt: skip


def test_a_key_is_made_shown_once_and_revoked(
    visit: Callable[..., Page], visitors: Visitors, lived_in: House
) -> None:
    visitors.expected = ["status of 400", "status of 401"]
    page = visit("/keys")
    page.locator("summary", has_text="New key").click()
    page.get_by_label("Name").fill("one & only")
    page.get_by_role("button", name="Create key").click()
    expect(page.get_by_role("alert")).to_contain_text("scope")
    page.get_by_label("read look").check()
    page.get_by_role("button", name="Create key").click()
    made = page.locator("#made").inner_text()

    other = visit("/login", key=None)
    sign_in(other, made)
    expect(other.locator(".who")).to_contain_text("one & only")
    page.goto("/keys")
    assert made not in page.content()
    row = page.locator(".line", has_text="one & only")
    row.locator("summary").click()
    row.get_by_role("button", name="Revoke the key").click()
    expect(page.get_by_text("The key one & only is revoked")).to_be_visible()
    # Whoever has signed in with it is asked to sign in, and led back.
    expect(other).to_have_url(re.compile(r"/login\?next="))
    other.goto("/rejections?q=x")
    assert other.url.endswith("/login?next=/rejections?q%3Dx")
    sign_in(other, lived_in.viewer)
    assert other.url.endswith("/rejections?q=x")


def test_a_viewer_looks_and_cannot_act(
    visit: Callable[..., Page], visitors: Visitors, lived_in: House
) -> None:
    visitors.expected = ["status of 403"]
    task_id = lived_in.finished("only to be looked at")
    page = visit(f"/tasks/{task_id}", key="viewer")
    expect(page.locator("h1")).to_have_text("only to be looked at")
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.get_by_role("button", name="Copy as cURL").click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    assert "only to be looked at" in page.evaluate("navigator.clipboard.readText()")
    for path in (f"/tasks/{task_id}", "/endpoints", "/keys", "/"):
        page.goto(path)
        posts = page.locator("main form[method=post]")
        expect(posts).to_have_count(0)

    # What the forms of an admin would send.
    for path in (f"/tasks/{task_id}/delete", "/keys", "/endpoints"):
        page.goto("/")
        page.evaluate(
            """path => {
                const form = document.querySelector(".tools form");
                form.action = path;
                form.submit();
            }""",
            path,
        )
        expect(page.get_by_role("heading", name="Forbidden")).to_be_visible()
        expect(page.get_by_text("a key that may only look")).to_be_visible()
    assert lived_in.task(task_id)["status"] == "succeeded"


def test_who_signs_out_or_whose_session_ends_comes_back_to_the_page(
    visit: Callable[..., Page], visitors: Visitors, lived_in: House
) -> None:
    visitors.expected = ["status of 401"]
    name = "for one session"
    key = lived_in.new_key(name, Scope.ADMIN)
    page = visit("/?status=failed", key=None)
    expect(page).to_have_url(re.compile(r"/login\?next="))
    page.get_by_label("API key").fill("pb_wrong")
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("alert")).to_contain_text("This is no API key")
    sign_in(page, key)
    assert page.url.endswith("/?status=failed")

    # The session ends while the page is open: by itself to the form, and back.
    page.context.clear_cookies()
    page.keyboard.press("r")
    expect(page).to_have_url(re.compile(r"/login\?next=%2F%3Fstatus%3Dfailed&ended=1$"))
    expect(page.get_by_text("Your session has ended")).to_be_visible()
    sign_in(page, key)
    assert page.url.endswith("/?status=failed")
    page.get_by_role("button", name="Sign out").click()
    expect(page).to_have_url(re.compile(r"/login$"))
    page.goto("/")
    expect(page).to_have_url(re.compile(r"/login\?next="))

"""The pages: who sees them, and what strangers wrote is shown as text."""

import re
from datetime import UTC, datetime, timedelta
from html import unescape
from typing import Any

from sqlalchemy import update
from werkzeug.test import TestResponse

from app.models import Circuit, Endpoint, Input, TaskStatus, new_id
from tests.factories import failure, make_task, png
from tests.web.browsers import Browser
from tests.web.sites import Site, add_image

HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "{{ 7 * 7 }} {% raw %}",
    "\u202egnp.exe\u202c \u2066\u200f",
    "nul \x00 and halves \ud800\udfff",
    "]]> <!-- ' \" & &amp; </textarea></title>",
    "x" * 32_000,
    "ä€😀" * 5_000,
]


def text_of(response: TestResponse) -> str:
    assert response.status_code == 200
    assert response.mimetype == "text/html"
    return response.get_data(as_text=True)


def test_a_viewer_sees_the_tasks_and_each_of_them(sqlite_site: Site, viewer: Browser) -> None:
    task = make_task(sqlite_site.parts, prompt="paint the cat", trace_id="order 7")
    sqlite_site.finish(task, png(64, 48))
    overview, page = text_of(viewer.get("/")), text_of(viewer.get(f"/tasks/{task.id}"))

    assert "paint the cat" in overview
    assert f'href="/tasks/{task.id}"' in overview
    for shown in ("paint the cat", "order 7", str(task.id), "succeeded", "64 \u00d7 48", "acedata"):
        assert shown in page
    # Of the page's own host, under whatever name that is open.
    pictures = re.findall(r'src="([^"]+)"', overview + page)
    pictures = [picture for picture in pictures if "/static/" not in picture]
    assert [picture[:10] for picture in pictures if "/image/" not in picture] == [
        "/images/t.",
        "/images/o.",
    ]
    for picture in pictures:
        # The caller's own image is at an address that nobody has.
        status = 404 if picture == f"/tasks/{task.id}/image/0" else 200
        assert viewer.client.get(picture, buffered=True).status_code == status


def test_every_status_has_its_look(sqlite_site: Site, viewer: Browser) -> None:
    for status in TaskStatus:
        task = make_task(sqlite_site.parts, columns={"status": status})
        assert f'class="status {status}"' in text_of(viewer.get(f"/tasks/{task.id}"))
    overview = text_of(viewer.get("/"))
    assert all(f'class="status {status}"' in overview for status in TaskStatus)


def test_every_status_of_an_image_has_its_look(sqlite_site: Site, viewer: Browser) -> None:
    for status, look in (
        ("pending", 'class="status pending"'),
        ("stored", "2 \u00d7 3"),
        ("failed", 'class="status failed"'),
    ):
        task = make_task(sqlite_site.parts, columns={"prompt": None, "model": None})
        stored = {"key": "a.png", "size": 1, "width": 2, "height": 3}
        failed = {"error_code": "c"} if status == "failed" else {}
        add_image(sqlite_site.parts, task, status=status, **stored, **failed)
        assert look in text_of(viewer.get(f"/tasks/{task.id}"))
    assert "no prompt" in text_of(viewer.get("/"))


def test_tasks_are_filtered_and_paged(sqlite_site: Site, viewer: Browser) -> None:
    for number in range(53):
        make_task(sqlite_site.parts, prompt=f"prompt number {number:02}.")
    columns = {"status": TaskStatus.CANCELED}
    make_task(sqlite_site.parts, prompt="the one", model="m" * 100, columns=columns)
    first = text_of(viewer.get("/"))
    # Cut short to be read, but not to be asked for.
    assert f'<option value="{"m" * 100}">{"m" * 64}\u2026</option>' in first
    following = re.search(r'rel="next" href="([^"]+)"', first)
    assert following
    second = text_of(viewer.get(unescape(following[1])))

    shown = re.findall(r"prompt number (\d\d)\.", first + second)
    assert shown == [f"{number:02}" for number in reversed(range(53))]
    filtered = text_of(viewer.get("/?status=canceled&q=one"))
    assert "the one" in filtered
    assert "prompt number" not in filtered
    assert '<option value="canceled" selected>' in filtered
    assert "Nothing matches" in text_of(viewer.get("/?q=nowhere"))


def test_trouble_is_on_top_and_in_the_title(sqlite_site: Site, viewer: Browser) -> None:
    endpoint = new_id()
    until = datetime.now(UTC) + timedelta(minutes=1)
    names = (f"deliver:{endpoint}", f"deliver:{new_id()}", "deliver:shop.example", "submit:acedata")
    with sqlite_site.parts.db.transaction() as session:
        url = "https://a.test/secret"
        session.add(Endpoint(id=endpoint, url=url, secret="x", description="The \u202e<shop>"))
        session.add_all(
            Circuit(name=name, failures=5, open_until=until, reason="it answered <500>")
            for name in names
        )
    page = text_of(viewer.get("/"))

    # Nobody works in this test, which is the fifth.
    assert "<title>(5) Tasks" in page
    assert "/static/trouble.svg" in page
    for words in (
        f'<a href="/endpoints/{endpoint}">Deliveries to a.test (The &lt;shop&gt;) rest after 5',
        "Deliveries to shop.example rest after 5 failures in a row: it answered &lt;500&gt;",
        "Submissions to acedata rest",
    ):
        assert words in page
    assert "secret" not in page
    assert "At rest</strong> after 5 failures in a row" in text_of(
        viewer.get(f"/endpoints/{endpoint}")
    )
    public = text_of(sqlite_site.client.get("/status"))
    assert "keeps failing" in public
    assert not [word for word in ("shop.example", str(endpoint), "&lt;500") if word in public]


def test_what_a_task_starts_from_is_shown(sqlite_site: Site, viewer: Browser) -> None:
    task = make_task(sqlite_site.parts)
    for key, source, status in (
        ("inputs/a.png", None, 302), (None, "http://127.0.0.1:1/a.png", 404), (None, "nonsense", 404)
    ):  # fmt: skip
        with sqlite_site.parts.db.transaction() as session:
            session.execute(update(Input).values(key=key, source_url=source))
        response = viewer.get(f"/tasks/{task.id}/image/0")
        assert response.status_code == status
    # As a part of a page it is missed without an error in the browser's console.
    seen = viewer.client.get(f"/tasks/{task.id}/image/0", headers={"Sec-Fetch-Dest": "image"})
    assert seen.status_code == 204
    assert viewer.get(f"/tasks/{task.id}/mask/0").status_code == 404


def test_without_tasks_it_says_how_to_submit_one(viewer: Browser) -> None:
    assert "curl http://postback.test/v1/images/edits" in text_of(viewer.get("/"))


def test_a_wrong_filter_or_task_is_explained_on_a_page(viewer: Browser) -> None:
    for path in ("/?status=nonsense", "/?cursor=x", "/?limit=1000"):
        response = viewer.get(path)
        assert (response.status_code, response.mimetype) == (400, "text/html")
        assert "expected" in response.get_data(as_text=True)
    response = viewer.get("/tasks/nothing")
    assert (response.status_code, response.mimetype) == (404, "text/html")


def test_what_strangers_wrote_is_shown_as_text(sqlite_site: Site, viewer: Browser) -> None:
    for text in HOSTILE:
        cut: dict[str, Any] = {"trace_id": text[:128], "metadata": {"a": text[:512]}}
        task = make_task(sqlite_site.parts, prompt=text, **cut, unheard_of=text)
        sqlite_site.post_back(task, failure(text, text))
        halves_replaced = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")

        # The list shows the beginning, the page all of it.
        for path, length in (("/", 100), (f"/tasks/{task.id}", 32_000)):
            page = text_of(viewer.get(path))
            assert halves_replaced.replace("\x00", "\ufffd")[:length] in unescape(page)
            for harm in ("<script>alert", "<img src=x", "<!-- '", "\x00", "\ud800"):
                assert harm not in page
            # The direction of a text must not turn what stands around it.
            assert re.search(r'class="[^"]*\bprompt\b[^"]*" dir="auto"', page)


def test_pages_run_nothing_and_are_not_kept(sqlite_site: Site, viewer: Browser) -> None:
    task = make_task(sqlite_site.parts)
    for path in ("/", f"/tasks/{task.id}", "/login", "/nothing"):
        response = viewer.get(path)
        policy = response.headers["Content-Security-Policy"].split("; ")
        assert {
            "default-src 'none'", "script-src 'self'", "frame-ancestors 'none'",
            "form-action 'self'",
        } <= set(policy)  # fmt: skip
        assert not [rule for rule in policy if "unsafe" in rule or "*" in rule]
        assert response.headers["Cache-Control"] == "no-store"
        page = response.get_data(as_text=True)
        assert not re.search(r"<script(?! src=)|<style| style=| on[a-z]+=|javascript:", page)
        # What makes them look and work is open to anybody.
        for file in set(re.findall(r'(?:href|src)="(/static/[^"]+)"', page)) | {
            "/static/style.css"
        }:
            assert sqlite_site.client.get(file, buffered=True).status_code == 200

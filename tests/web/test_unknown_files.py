"""Files under fields that this service does not know: providers add parameters."""

import shlex
from collections.abc import Callable, Iterator
from html import unescape
from typing import Any
from uuid import UUID

import pytest
from werkzeug.test import EnvironBuilder
from werkzeug.wrappers import Request

from app import retention
from app.jobs import Kind
from app.services import Services
from tests.core.sites import Asked, json_answer, running_site
from tests.core.sites import Site as Host
from tests.factories import get_task, reconfigured, run_next
from tests.web.browsers import Browser
from tests.web.sites import Site, error_of, fetch, json_of, open_site, tasks_of
from tests.web.test_forms import BLUE, RED, digest, file, files_in, raw, send

LORA = b"no image at all"
ACEDATA, AGCLOUD = "/openai/images/edits", "/v1/image/edits"
# What neither a key in storage, nor a page, nor a command for a shell could hold as it is.
HOSTILE = "../../a'b<i>$(id)"


@pytest.fixture
def provider() -> Iterator[Host]:
    """What answers in the place of both providers."""
    with running_site() as host:
        host.replies[ACEDATA] = json_answer({"success": True, "task_id": "theirs"})
        host.replies[AGCLOUD] = json_answer({"data": [{"url": "https://a.test/made.png"}]})
        yield host


@pytest.fixture
def site(parts: Services, provider: Host) -> Iterator[Site]:
    """The application, on both databases."""
    linked = reconfigured(parts, acedata_base_url=provider.url, agcloud_base_url=provider.url)
    with open_site(linked) as site:
        yield site


def submit(site: Site, **fields: Any) -> UUID:
    response = send(site, **fields)
    assert response.status_code == 200, response.get_data()
    return UUID(json_of(response)["task_id"])


def files_of(asked: Asked) -> set[tuple[str, str | None, str, bytes]]:
    """The files of a form: field, name, type and bytes."""
    content_type = asked.headers["Content-Type"]
    builder = EnvironBuilder(method="POST", data=asked.body, content_type=content_type)
    with Request(builder.get_environ()) as request:
        return {
            (field, each.filename, each.mimetype, each.read())
            for field, each in request.files.items(multi=True)
        }


def test_they_are_in_storage_before_the_answer_and_go_with_their_task(site: Site) -> None:
    others = {HOSTILE: [file(RED), file(LORA)], "file": file(LORA)}
    id_ = submit(site, style_image=file(BLUE, "b.png"), **others)

    names = ("image-0.png", "file-0.png", "file-1.png", "file-2.bin", "file-3.bin")
    assert files_in(site.parts) == {f"inputs/{id_}/{name}" for name in names}
    inputs = site.look_up(get_task(site.parts, id_))["inputs"]
    shown = {(each["role"], each["index"]): each for each in inputs}
    assert {place: (each["content_type"], each["bytes"]) for place, each in shown.items()} == {
        ("image", 0): ("image/png", len(RED)),
        ("style_image", 0): ("image/png", len(BLUE)),
        (HOSTILE, 0): ("image/png", len(RED)),
        (HOSTILE, 1): ("application/octet-stream", len(LORA)),
        ("file", 0): ("application/octet-stream", len(LORA)),
    }
    assert fetch(site, shown["style_image", 0]["url"]).get_data() == BLUE

    retention.delete_tasks(site.parts, [id_])
    assert files_in(site.parts) == set()


@pytest.mark.parametrize(
    ("path", "kind", "fields"),
    [
        (ACEDATA, Kind.SUBMIT, {}),
        # Such a file alone makes it a form.
        (ACEDATA, Kind.SUBMIT, {"image": "https://a.test/1.png"}),
        (AGCLOUD, Kind.HOLD, {"provider": "agcloud", "model": "gpt-image-2"}),
    ],
)
def test_the_provider_gets_them_under_their_own_names_also_when_they_are_submitted_again(
    site: Site, provider: Host, path: str, kind: Kind, fields: dict[str, Any]
) -> None:
    others = {"style[]": [file(BLUE), file(RED)], HOSTILE: file(LORA, "x.txt"), "strength": "0.5"}
    id_ = submit(site, **others, **fields)
    run_next(site.parts, kind)
    assert site.call("POST", f"/v1/tasks/{id_}/resubmit").status_code == 200
    # The new task has files of its own.
    retention.delete_tasks(site.parts, [id_])
    run_next(site.parts, kind)

    first, again = (files_of(asked) for asked in provider.asked(path))
    assert first == again
    assert first - {("image", "image-0.png", "image/png", RED)} == {
        ("style[]", "file-0.png", "image/png", BLUE),
        ("style[]", "file-1.png", "image/png", RED),
        (HOSTILE, "file-2.bin", "application/octet-stream", LORA),
    }


def test_a_text_may_come_under_the_same_name_and_a_file_without_a_name_is_one_by_its_type(
    sqlite_site: Site,
) -> None:
    head = b"\r\nContent-Disposition: form-data; name="
    parts = [
        head + b'"prompt"\r\n\r\na\r\n', head + b'"async"\r\n\r\ntrue\r\n',
        head + b'"image"\r\n\r\nhttps://a.test/1.png\r\n', head + b'"style"\r\n\r\nbold\r\n',
        head + b'"style"\r\nContent-Type: image/png\r\n\r\n' + RED + b"\r\n",
    ]  # fmt: skip
    response = raw(sqlite_site, b"--x" + b"--x".join(parts) + b"--x--")

    assert response.status_code == 200, response.get_data()
    task = get_task(sqlite_site.parts, tasks_of(sqlite_site.parts)[0])
    assert task.request["style"] == "bold"
    (_, style) = sqlite_site.look_up(task)["inputs"]
    assert (style["role"], style["content_type"]) == ("style", "image/png")


def test_they_are_part_of_what_a_submission_is_recognised_by(sqlite_parts: Services) -> None:
    digests = [
        digest(sqlite_parts),
        digest(sqlite_parts, style=file(RED)),
        digest(sqlite_parts, style=file(BLUE)),
        digest(sqlite_parts, other=file(RED)),
    ]
    assert len(set(digests)) == 4
    assert digest(sqlite_parts, style=file(RED, "b.png", "image/png")) == digests[1]


def test_they_count_in_the_limits_of_a_submission(site_with: Callable[..., Site]) -> None:
    site = site_with(max_upload_bytes="20KiB")

    assert error_of(send(site, style=file(bytes(20_500))), 413)["code"] == "too_large"
    many = send(site, style=[file(b"x") for _ in range(64)])
    assert error_of(many, 400)["message"] == "style: expected at most 64 files"
    assert send(site, style=[file(b"x") for _ in range(63)]).status_code == 200


@pytest.mark.parametrize("name", ["", "a\tb", "\u202e", "x" * 201])
def test_a_name_that_no_field_can_have_is_refused(sqlite_site: Site, name: str) -> None:
    fields: dict[str, Any] = {name: file(RED)}
    error = error_of(send(sqlite_site, **fields), 400)

    rule = "expected 1 to 200 printable characters as the name of a file's field"
    assert error["message"] == f"{rule}, not {name[:200]!r}"
    assert files_in(sqlite_site.parts) == set()


def test_the_page_of_a_task_shows_them(sqlite_site: Site, viewer: Browser) -> None:
    id_ = submit(sqlite_site, style=file(BLUE), **{HOSTILE: file(LORA)})
    source = viewer.get(f"/tasks/{id_}").get_data(as_text=True)
    page = unescape(source)

    assert "<i>" not in source
    style, lora = (
        each["url"].removeprefix(sqlite_site.parts.config.public_url)
        for role in ("style", HOSTILE)
        for each in sqlite_site.look_up(get_task(sqlite_site.parts, id_))["inputs"]
        if each["role"] == role
    )
    assert f'<a href="{style}"><img src="{style}" alt="style 1"' in page
    assert f'<a href="{lora}">Open the file</a>' in page
    assert page.count(f"<bdi>{HOSTILE} 1</bdi>") == 2
    for path, data in ((style, BLUE), (lora, LORA)):
        assert viewer.client.get(path, buffered=True).get_data() == data
    # As a command for a shell, too.
    command = page[page.index("curl -fsSL") : page.index("</code></pre></details>")]
    words = shlex.split(command)
    assert f"{HOSTILE}=@file-1.img" in words
    assert "style=@file-3.png" in words

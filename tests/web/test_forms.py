"""Submissions as forms with files: read, recognised, kept in storage before the answer."""

import gzip
import io
import json
import shutil
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO
from uuid import UUID

import pytest
from werkzeug.test import EnvironBuilder, TestResponse
from werkzeug.wrappers import Request

from app import retention
from app.models import Placement, Scope, TaskStatus
from app.services import Services
from app.storage.local import LocalStorage
from app.web import reading
from app.web.intake import Budget
from tests.core.conftest import count
from tests.core.test_file_rules import encoded
from tests.factories import deliver, get_task, png, success
from tests.web.sites import Site, all_at_once, error_of, fetch, json_of, open_site, tasks_of

PATH = "/v1/images/edits"
RED, BLUE = png(16, 16, "red"), png(16, 16, "blue")
MASK = encoded("PNG", "RGBA", (16, 16))

Upload = tuple[io.BytesIO, str, str]


def file(
    data: bytes, name: str = "upload", content_type: str = "application/octet-stream"
) -> Upload:
    return io.BytesIO(data), name, content_type


def form(**fields: Any) -> dict[str, Any]:
    """The parts of a form that is right; None leaves one out, `image__` is written `image[]`."""
    parts = {"prompt": "make it sepia", "async": "true", "image": file(RED), **fields}
    return {name.replace("__", "[]"): value for name, value in parts.items() if value is not None}


def send(site: Site, path: str = PATH, **fields: Any) -> TestResponse:
    # A list of files is one part for each of them.
    return site.call(
        "POST", path, scope=Scope.SUBMIT, data=form(**fields), content_type=reading.FORM
    )


def files_in(parts: Services) -> set[str]:
    """The keys of what is in storage."""
    folder = parts.config.local_storage_dir
    found = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return {str(path) for path in found if path.parts[0] != ".partial"}


def test_half_a_character_in_a_form_does_not_keep_its_result_out(site: Site) -> None:
    cut = json.dumps({"title": "cut \ud83d"})
    image = json.dumps(["https://example.com/\ud83d.png"])
    task_id = json_of(send(site, image=image, metadata=cut))["task_id"]
    task = get_task(site.parts, UUID(task_id))
    assert task.request["metadata"] == {"title": "cut \ufffd"}

    deliver(site.parts, task, success("https://example.com/made.png"))
    assert get_task(site.parts, task.id).status is TaskStatus.RECEIVED


def test_files_are_in_storage_before_the_answer_and_served_as_what_they_are(site: Site) -> None:
    response = send(
        site,
        image=None,
        image__=[file(RED, "a.txt", "text/html"), file(encoded("JPEG"))],
        mask=file(MASK, "mask.png", "image/png"),
        metadata='{"a": "b"}',
        n="2",
        size="auto",
        seed="7",
        trace_id="order 7",
        deadline="90",
    )
    assert response.status_code == 200, response.get_data()
    (id_,) = tasks_of(site.parts)
    task = get_task(site.parts, id_)

    assert json_of(response) == {"success": True, "task_id": str(id_), "trace_id": "order 7"}
    # Known fields have their types, unknown ones are as they came.
    typed = {"n": 2, "size": "auto", "async": True, "deadline": 90, "metadata": {"a": "b"}}
    assert task.request == {**typed, "prompt": "make it sepia", "seed": "7", "trace_id": "order 7"}
    names = {f"inputs/{id_}/{name}" for name in ("image-0.png", "image-1.jpg", "mask-0.png")}
    assert files_in(site.parts) == names
    shown = site.look_up(task)["inputs"]
    assert [(each["role"], each["index"], each["content_type"]) for each in shown] == [
        ("image", 0, "image/png"), ("image", 1, "image/jpeg"), ("mask", 0, "image/png"),
    ]  # fmt: skip
    served = fetch(site, shown[0]["url"])
    assert (served.status_code, served.get_data(), served.mimetype) == (200, RED, "image/png")
    assert (shown[2]["bytes"], fetch(site, shown[2]["url"]).get_data()) == (len(MASK), MASK)

    retention.delete_tasks(site.parts, [id_])
    assert files_in(site.parts) == set()
    assert fetch(site, shown[0]["url"]).status_code == 404


@pytest.mark.parametrize(
    ("fields", "stored"),
    [
        ({"metadata[a]": "b", "metadata[c]": ""}, {"metadata": {"a": "b", "c": ""}}),
        ({"image": "https://a.test/1"}, {"image": "https://a.test/1"}),
        ({"image": ["https://a.test/1", "https://a.test/2"]}, {"image": ["https://a.test/1", "https://a.test/2"]}),
        ({"image": None, "image__": "https://a.test/1"}, {"image": ["https://a.test/1"]}),
        ({"image": '["https://a.test/1"]'}, {"image": ["https://a.test/1"]}),
        ({"async": "TRUE", "stream": "0"}, {"async": True, "stream": False}),
        ({"tag": ["a", "b"], "other[]": "c"}, {"tag": ["a", "b"], "other[]": "c"}),
        # What a browser sends for a file that nobody chose.
        ({"mask": file(b"", "")}, {}),
    ],
)  # fmt: skip
def test_the_fields_of_a_form_mean_what_json_would_say(
    sqlite_site: Site, fields: dict[str, Any], stored: dict[str, Any]
) -> None:
    response = send(sqlite_site, **fields)

    assert response.status_code == 200, response.get_data()
    (id_,) = tasks_of(sqlite_site.parts)
    request = get_task(sqlite_site.parts, id_).request
    assert {name: request.get(name) for name in stored} == stored


GOOD = "https://a.test/1"
WRONG: list[tuple[dict[str, Any], str]] = [
    ({"n": "two"}, "n: expected a whole number from 1 to 10, not 'two'"),
    ({"n": "11"}, "n: expected a whole number from 1 to 10, not 11"),
    ({"n": ["1", "2"]}, "n: expected a whole number from 1 to 10, not ['1', '2']"),
    ({"async": "yes"}, "async: expected true or false, not 'yes'"),
    ({"prompt": ""}, "prompt: expected text"),
    ({"prompt": None}, "prompt is missing"),
    ({"prompt": file(b"text", "prompt.txt")}, "prompt: expected text, not a file"),
    ({"metadata": "{"}, "metadata: expected an object"),
    ({"metadata": "{}", "metadata[a]": "b"}, "metadata: expected JSON text or a field"),
    ({"metadata[a]": ["b", "c"]}, "metadata: expected JSON text or a field"),
    ({"metadata[a][b]": "c"}, "metadata: expected JSON text or a field"),
    ({"metadata[]": "c"}, "metadata: expected JSON text or a field"),
    ({"provider": "nobody"}, "provider: expected one of"),
    (
        {"image": None},
        "image is missing: expected an http(s) URL, or 1 to 16 in a list; or 1 to 16 png",
    ),
    (
        {"image": file(b"GIF89a")},
        "image: expected png or webp or jpeg, not a file that begins with",
    ),
    ({"image": file(b"", "empty.png")}, "image: expected png or webp or jpeg, not an empty file"),
    ({"image__": GOOD}, "image: expected files or URLs, not both"),
    ({"image": GOOD, "mask": file(MASK)}, "mask needs image to be a file, too"),
    ({"mask": GOOD}, "mask: expected a file, in a form"),
    ({"mask": file(RED)}, "mask: expected an image with an alpha channel"),
    ({"deadline": file(b"90")}, "deadline: expected text, not a file"),
    ({"metadata[a]": file(b"b")}, "metadata[a]: expected text, not a file"),
    ({"image": [file(RED) for _ in range(17)]}, "image: expected at most 16 files, not 17"),
    ({"image": [file(RED) for _ in range(65)]}, "image: expected at most 64 files"),
]


def test_a_wrong_form_is_refused_and_leaves_nothing(sqlite_site: Site) -> None:
    for fields, message in WRONG:
        error = error_of(send(sqlite_site, **fields), 400)
        assert error["message"].startswith(message), (fields, error)
        assert message.startswith(error["param"])
    assert tasks_of(sqlite_site.parts) == []
    assert files_in(sqlite_site.parts) == set()


def raw(site: Site, body: bytes, content_type: str = "multipart/form-data; boundary=x") -> Any:
    return site.call("POST", PATH, scope=Scope.SUBMIT, data=body, content_type=content_type)


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        (b'{"prompt": "a"}', 400, "the body: not a form"),
        (b"--x\r\n\r\na\r\n--x--", 400, "the body: not a form"),
        (b"--x\r\nContent-Disposition: form-data\r\n\r\na\r\n--x--", 400, "the body: not a form"),
        (b'--x\r\nContent-Disposition: form-data; name="n"\r\n\r\n1', 400, "the body: not a form"),
        (b'--x\r\nContent-Disposition: form-data; name="n"\r\n\r\n\xff\r\n--x--', 400, "n: not UTF-8"),
        (b'--x\r\nContent-Disposition: form-data; name="n"\r\n\r\n' + b"1" * 5_000_000, 413, "the texts"),
        (b"--x\r\nContent-Disposition: " + b"1" * 5_000_000, 413, "the form has more than"),
        (b"--x\r\nContent-Disposition: form-data; name=a\r\n\r\n\r\n" * 1001, 413, "the form has"),
    ],
)  # fmt: skip
def test_what_is_no_form_or_too_much_of_one_is_refused(
    sqlite_site: Site, body: bytes, status: int, message: str
) -> None:
    assert error_of(raw(sqlite_site, body), status)["message"].startswith(message)


def test_other_types_are_refused_and_a_form_needs_its_boundary(sqlite_site: Site) -> None:
    urlencoded = raw(sqlite_site, b"prompt=a", "application/x-www-form-urlencoded")
    assert error_of(urlencoded, 415)["message"] == (
        "Content-Type: expected application/json or multipart/form-data, "
        "not 'application/x-www-form-urlencoded'"
    )
    assert "boundary" in error_of(raw(sqlite_site, b"--x--", "multipart/form-data"), 400)["message"]


def test_a_file_without_a_name_is_one_by_its_type_and_a_body_may_be_compressed(
    sqlite_site: Site,
) -> None:
    parts = [
        b'--x\r\nContent-Disposition: form-data; name="image"\r\nContent-Type: image/png\r\n\r\n',
        RED,
        b'\r\n--x\r\nContent-Disposition: form-data; name="prompt"\r\n\r\na\r\n--x\r\n',
        b'Content-Disposition: form-data; name="async"\r\n\r\ntrue\r\n--x--\r\n',
    ]

    def submit(body: bytes) -> TestResponse:
        headers = {"Content-Encoding": "gzip"}
        return sqlite_site.call(
            "POST", PATH, data=body, headers=headers, content_type="multipart/form-data; boundary=x"
        )

    whole = gzip.compress(b"".join(parts))
    assert submit(whole).status_code == 200
    assert [name.rpartition("/")[2] for name in files_in(sqlite_site.parts)] == ["image-0.png"]
    assert "cannot be inflated" in error_of(submit(whole[:-9]), 400)["message"]


def test_the_whole_request_has_a_limit_and_so_have_all_of_them_together(
    site_with: Callable[..., Site],
) -> None:
    site = site_with(max_upload_bytes="10KiB")
    large = png(16, 16) + bytes(10_000)

    assert error_of(send(site, image=file(large)), 413)["code"] == "too_large"
    assert send(site, image=file(large[:8_000])).status_code == 200
    budget: Budget = site.flask.extensions["uploads"]
    # Small ones take nothing of it.
    budget.take(4 * 10 * 1024)
    assert send(site, image=file(large[:8_000])).status_code == 200


def test_storage_that_is_down_submits_nothing(sqlite_site: Site) -> None:
    folder = sqlite_site.parts.config.local_storage_dir
    shutil.rmtree(folder)
    Path(folder).write_bytes(b"a file where the folder should be")

    response = send(sqlite_site)
    assert error_of(response, 503)["code"] == "unavailable"
    assert response.headers["Retry-After"]
    assert tasks_of(sqlite_site.parts) == []


def test_of_forms_that_race_under_one_key_the_files_of_one_stay(parts: Services) -> None:
    """Each has stored its own before any has a task: two are the same, the third is not."""
    stored = threading.Barrier(3)
    prompts = iter(["a", "a", "b"])

    class Meeting(LocalStorage):
        def put(self, key: str, file: BinaryIO, content_type: str) -> None:
            super().put(key, file, content_type)
            stored.wait(30)

    def submit() -> int:
        headers = {"Idempotency-Key": "k"}
        given = form(prompt=next(prompts))
        response = site.call("POST", PATH, data=given, headers=headers, content_type=reading.FORM)
        return response.status_code

    with open_site(replace(parts, storage=Meeting(parts.config.local_storage_dir))) as site:
        site.key(Scope.ADMIN)
        statuses = sorted(all_at_once(3, submit))
    (id_,) = tasks_of(parts)
    assert statuses in ([200, 200, 422], [200, 422, 422])
    assert files_in(parts) == {f"inputs/{id_}/image-0.png"}
    assert count(parts.db, Placement) == 0


def given(path: str = PATH, **fields: Any) -> tuple[Request, dict[str, Any]]:
    builder = EnvironBuilder(path, method="POST", data=form(**fields), content_type=reading.FORM)
    return Request(builder.get_environ()), fields


def digest(parts: Services, *, provider: str = "acedata", **fields: Any) -> str:
    """How a form is recognised."""
    request, _ = given(**fields)
    with reading.submission(request, parts, Budget(10**9), default_provider=provider) as submission:
        return submission.digest


def test_a_submission_is_recognised_by_its_fields_and_files(sqlite_parts: Services) -> None:
    parts = sqlite_parts

    def json_digest(**fields: Any) -> str:
        builder = EnvironBuilder(PATH, method="POST", json=fields)
        request = Request(builder.get_environ())
        with reading.submission(
            request, parts, Budget(0), default_provider="acedata"
        ) as submission:
            return submission.digest

    first = digest(parts)
    # Another boundary, another name, another declared type, the fields the other way round.
    assert digest(parts, image=file(RED, "b.png", "image/png")) == first
    assert digest(parts, image=None, image__=file(RED)) == first
    assert digest(parts, provider="acedata") == first
    others = [
        digest(parts, image=file(BLUE)),
        digest(parts, image=[file(RED), file(BLUE)]),
        digest(parts, image=[file(BLUE), file(RED)]),
        digest(parts, mask=file(MASK)),
        digest(parts, prompt="make it blue"),
        digest(parts, n="1"),
        json_digest(prompt="make it sepia", image="https://a.test/1", **{"async": True}),
    ]
    assert len({first, *others}) == 8
    assert (
        json_digest(image="https://a.test/1", n=None, prompt="make it sepia", **{"async": True})
        == others[-1]
        == digest(parts, image="https://a.test/1")
    )

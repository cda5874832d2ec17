"""`POST /v1/images/edits` that waits: for the result, the provider's refusal, or the end of its time."""

import base64
import io
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from app.models import Task
from app.web import FREE_THREADS, THREADS, answers
from tests.factories import eventually, failure, get_task, png, submission
from tests.web.sites import Json, Site, error_of, json_of, submit_and_wait, tasks_of


@contextmanager
def ending(site: Site, end: Callable[[Task], object]) -> Iterator[None]:
    """Inside the block, the next task that is created is ended by `end` in another thread."""
    before = tasks_of(site.parts)

    def work() -> None:
        eventually(lambda: len(tasks_of(site.parts)) > len(before))
        end(get_task(site.parts, tasks_of(site.parts)[-1]))

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        thread.join(30)


def test_a_call_that_waits_is_answered_with_the_result(site: Site) -> None:
    site.parts.db.listen()
    usage = {"input_tokens": 7}
    with ending(site, lambda task: site.finish(task, png(), png(4, 4), usage=usage)):
        started = time.monotonic()
        response = submit_and_wait(site, trace_id="mine")
    answer = json_of(response)
    task = site.look_up(get_task(site.parts, tasks_of(site.parts)[0]))

    assert response.status_code == 200
    assert abs(answer.pop("created") - time.time()) < 30
    assert answer == {
        "success": True,
        "task_id": task["task_id"],
        "trace_id": "mine",
        "model": "gpt-image-2",
        "data": [{"url": image["url"]} for image in task["images"]],
        "usage": usage,
    }
    assert len(answer["data"]) == 2
    assert time.monotonic() - started < 20


def test_images_come_as_base64_where_that_is_asked_for(sqlite_site: Site) -> None:
    # Of every length that base64 ends with.
    pictures = [png() + b"\0" * rest for rest in range(3)]
    with ending(sqlite_site, lambda task: sqlite_site.finish(task, *pictures)):
        response = submit_and_wait(sqlite_site, response_format="b64_json")
    items = json_of(response)["data"]

    assert [base64.b64decode(item["b64_json"]) for item in items] == pictures
    assert {name for item in items for name in item} == {"b64_json"}
    assert int(response.headers["Content-Length"]) == len(response.get_data())


def test_base64_is_the_same_however_storage_gives_its_bytes() -> None:
    class Trickle(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            return super().read(min(size or 7, 7))

    data = bytes(range(256))
    assert b"".join(answers.base64_of(Trickle(data))) == base64.b64encode(data)


def test_who_waits_for_a_task_that_is_canceled_is_told(sqlite_site: Site) -> None:
    """Under a status after which no client tries again by itself."""
    site = sqlite_site
    with ending(site, lambda task: site.call("POST", f"/v1/tasks/{task.id}/cancel")):
        response = submit_and_wait(site)
    assert error_of(response, 410)["code"] == "canceled"


def refusing(site: Site, code: str) -> Callable[[Task], object]:
    return lambda task: site.post_back(task, failure(code, "no"))


def test_the_providers_refusal_keeps_its_code_under_its_status(sqlite_site: Site) -> None:
    site = sqlite_site
    for code, status in {
        "forbidden": 403, "used_up": 403, "disabled": 403, "too_many_requests": 429,
        "timeout": 504, "bad_request": 400, "api_error": 500, "invalid_token": 500,
    }.items():  # fmt: skip
        with ending(site, refusing(site, code)):
            response = submit_and_wait(site, prompt=code)
        error = error_of(response, status)
        assert (error["code"], error["message"]) == (code, "no")
        assert json_of(response)["task_id"] == str(tasks_of(site.parts)[-1])


def test_after_its_time_a_call_that_waits_is_told_that_the_task_goes_on(
    site_with: Callable[..., Site],
) -> None:
    site = site_with(sync_wait="0.2s")
    response = submit_and_wait(site)
    payload: Json = json_of(response)
    (id_,) = tasks_of(site.parts)

    assert error_of(response, 504)["code"] == "timeout"
    assert payload["task_id"] == str(id_)
    assert response.headers["x-should-retry"] == "false"
    assert get_task(site.parts, id_).status == "queued"


def test_who_finds_no_place_to_wait_has_submitted_nothing(sqlite_site: Site) -> None:
    waiters = sqlite_site.flask.extensions["waiters"]
    with ExitStack() as places:
        for _ in range(THREADS - FREE_THREADS):
            places.enter_context(waiters.place())
        response = submit_and_wait(sqlite_site)
        # Who brings files may have to wait for storage: only some threads may hang there.
        form = {"image": (io.BytesIO(png()), "a.png"), "prompt": "sepia", "async": "1"}
        with_file = sqlite_site.call("POST", "/v1/images/edits", data=form)
        for refused in (response, with_file):
            assert error_of(refused, 503)["code"] == "unavailable"
            assert int(refused.headers["Retry-After"]) > 0
        assert tasks_of(sqlite_site.parts) == []
        # Who does neither needs no place.
        at_once = sqlite_site.call("POST", "/v1/images/edits", json=submission())
        assert at_once.status_code == 200

"""`stream: true`: partial images and images as events, an error as one, and who has got it whole."""

import base64
import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from werkzeug.test import TestResponse

from app.jobs import Kind
from app.models import Scope, Task
from app.sandbox import Options, Sandbox
from app.web import FREE_THREADS, THREADS
from tests.factories import due_kinds, get_task, png, run_next, submission
from tests.sandbox.client import Client
from tests.web.sites import Site, fetch, tasks_of
from tests.web.test_synchronous_submissions import ending, refusing

Event = tuple[str, Any]


@pytest.fixture
def sandbox() -> Iterator[Client]:
    with Sandbox(Options(port=0, delay=0)) as running:
        client = Client(running.url)
        yield client
        client.pool.clear()


def stream(site: Site, **fields: Any) -> TestResponse:
    body = submission(**{"async": None, "stream": True, **fields})
    return site.call("POST", "/v1/images/edits", json=body)


def events_of(response: TestResponse) -> list[Event]:
    """The events of a stream, by name and content, without its comments."""
    assert response.status_code == 200
    assert response.mimetype == "text/event-stream"
    read: list[Event] = []
    for block in response.get_data(as_text=True).strip("\n").split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.strip("\n").split("\n"))
        if data := fields.get("data"):
            content = data if data == "[DONE]" else json.loads(data)
            read.append((fields.get("event", "").removeprefix("image_edit."), content))
    return read


def settle(site: Site) -> Callable[[Task], None]:
    """Lets all jobs run."""

    def run(task: Task) -> None:
        del task
        while kinds := due_kinds(site.parts):
            run_next(site.parts, Kind(kinds[0]))

    return run


def last_task(site: Site) -> Task:
    return get_task(site.parts, tasks_of(site.parts)[-1])


def test_partial_images_come_before_the_images(
    site_with: Callable[..., Site], sandbox: Client
) -> None:
    site = site_with(
        sync_wait="20s",
        agcloud_api_key="k",
        agcloud_base_url=sandbox.url,
        default_provider="agcloud",
    )
    with ending(site, settle(site)):
        response = stream(site, image=sandbox.photo, n=2, partial_images=2, quality="low")
    *images, (_, done) = events_of(response)

    assert response.headers["Location"] == f"/v1/tasks/{last_task(site).id}"
    assert done == "[DONE]"
    assert [name for name, _ in images] == ["partial_image"] * 2 + ["completed"] * 2
    assert [content.get("partial_image_index") for _, content in images] == [0, 1, None, None]
    for name, content in images:
        assert content["type"] == f"image_edit.{name}"
        assert (content["quality"], content["background"]) == ("low", "auto")
        assert content["output_format"] == "png"
        assert content["created_at"] > 0
    assert [
        hashlib.sha256(base64.b64decode(content["b64_json"])).hexdigest()
        for _, content in images[2:]
    ] == [image["sha256"] for image in sandbox.state()["images"]]
    assert images[-1][1]["size"] == "451x300"
    assert images[-1][1]["usage"]["input_tokens_details"]["image_tokens"] == 100
    assert last_task(site).answered_at is not None


def test_a_provider_without_partial_images_ends_with_the_images(site: Site) -> None:
    site.parts.db.listen()
    picture = png()
    with ending(site, lambda task: site.finish(task, picture, usage={"input_tokens": 7})):
        response = stream(site, response_format="url")
    (name, content), (_, done) = events_of(response)

    assert (name, done) == ("completed", "[DONE]")
    assert "b64_json" not in content
    assert content["usage"] == {"input_tokens": 7, "input_tokens_details": None}
    assert fetch(site, content["url"]).data == picture


def test_an_error_is_an_event(site_with: Callable[..., Site], sandbox: Client) -> None:
    site = site_with(sync_wait="20s", agcloud_api_key="k", agcloud_base_url=sandbox.url)
    with ending(site, refusing(site, "forbidden")):
        ((name, content),) = events_of(stream(site))
    assert name == "error"
    assert (content["error"]["code"], content["task_id"]) == (
        "forbidden",
        str(last_task(site).id),
    )
    assert last_task(site).answered_at is not None

    with ending(site, settle(site)):
        *partial, (_, failed) = events_of(
            stream(
                site, provider="agcloud", image=sandbox.photo, prompt="[stream error]",
                partial_images=1,
            )
        )  # fmt: skip
    assert [name for name, _ in partial] == ["partial_image"]
    assert failed["error"]["code"] == "server_error"


def test_after_its_time_a_stream_ends_with_an_error_and_the_task_goes_on(
    site_with: Callable[..., Site],
) -> None:
    site = site_with(sync_wait="0.2s")
    ((name, content),) = events_of(stream(site))

    assert (name, content["error"]["code"]) == ("error", "timeout")
    task = last_task(site)
    assert (task.status, task.answered_at) == ("queued", None)
    # Who sends it again joins the same task.
    events_of(stream(site))
    assert tasks_of(site.parts) == [task.id]


def test_who_hangs_up_changes_nothing(sqlite_site: Site) -> None:
    site = sqlite_site
    body = submission(**{"async": None, "stream": True})
    headers = {"Authorization": f"Bearer {site.key(Scope.SUBMIT)}"}
    waiters = site.flask.extensions["waiters"]
    with ending(site, lambda task: site.finish(task, png())):
        response = site.new_client().post("/v1/images/edits", json=body, headers=headers)
        pieces = iter(response.iter_encoded())
        while b'"b64_json"' not in next(pieces):
            pass
        response.close()

    task = last_task(site)
    assert (task.status, task.answered_at) == ("succeeded", None)
    # Its place is free again.
    with ExitStack() as places:
        for _ in range(THREADS - FREE_THREADS):
            places.enter_context(waiters.place())

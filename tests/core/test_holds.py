"""Edits at AGCloud: held open by a worker, sent at most once, and never lost once answered."""

import base64
import hashlib
import io
import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from PIL import Image as Pillow

from app import edits, holds, jobs, reports, tasks
from app.columns import db_now
from app.errors import (
    ImageError,
    InvalidFieldError,
    LeaseLostError,
    PostbackError,
    ProviderError,
)
from app.holds import sources
from app.holds.partials import Partials
from app.jobs import Kind
from app.models import (
    Chunk,
    Circuit,
    Input,
    Role,
    Source,
    Task,
    TaskStatus,
    Verification,
    new_id,
)
from app.providers.base import Result
from app.sandbox import Options, Sandbox
from app.services import Services
from tests.core.conftest import count
from tests.core.sites import Answer, Asked, Site
from tests.factories import (
    callbacks_of,
    claim,
    conclude,
    due_kinds,
    fail_next,
    get_task,
    images_of,
    make_task,
    png,
    reconfigured,
    run_next,
    timeline,
)
from tests.sandbox.client import Client
from tests.scarcity import no_more_threads

EDITS = "/v1/image/edits"


@pytest.fixture
def sandbox() -> Iterator[Client]:
    """A sandbox that plays AGCloud, and what happened there."""
    with Sandbox(Options(port=0, delay=0)) as running:
        client = Client(running.url)
        yield client
        client.pool.clear()


@pytest.fixture
def linked(parts: Services, sandbox: Client) -> Services:
    """The services, on both databases, with the sandbox as AGCloud."""
    return reconfigured(parts, agcloud_base_url=sandbox.url, agcloud_api_key="our key")


@pytest.fixture
def linked_sqlite(sqlite_parts: Services, sandbox: Client) -> Services:
    """The services on SQLite, with the sandbox as AGCloud."""
    return reconfigured(sqlite_parts, agcloud_base_url=sandbox.url, agcloud_api_key="our key")


@pytest.fixture
def scripted(sqlite_parts: Services, host: Site) -> Services:
    """The services on SQLite, with `host` as AGCloud."""
    return reconfigured(sqlite_parts, agcloud_base_url=host.url)


def held(parts: Services, image: str | list[str], **fields: Any) -> Task:
    return make_task(parts, provider="agcloud", image=image, **fields)


def settle(parts: Services, task: Task) -> Task:
    """Let the jobs run that the answer has led to."""
    while kinds := due_kinds(parts):
        run_next(parts, Kind(kinds[0]))
    return get_task(parts, task.id)


def shown(parts: Services, task: Task) -> dict[str, Any]:
    with parts.db.reading() as session:
        return reports.task_in_full(parts, session, task)


def test_an_answer_becomes_stored_images(linked: Services, sandbox: Client) -> None:
    task = held(linked, [sandbox.photo, f"{sandbox.url}/photos/coffee.png"], n=2)
    assert due_kinds(linked) == ["hold"]

    task = settle(linked, task)

    assert (task.status, task.verification) == (TaskStatus.SUCCEEDED, Verification.RESPONSE)
    assert (task.submitting_at, task.ask_at) == (None, None)
    assert timeline(linked, task)[:4] == ["created", "submitting", "submitted", "received"]
    assert [each.source for each in callbacks_of(linked, task)] == [Source.RESPONSE]
    state = sandbox.state()
    assert state["submissions"] == {str(task.id): 1}
    assert [image.sha256 for image in images_of(linked, task)] == [
        image["sha256"] for image in state["images"]
    ]
    assert task.usage is not None
    # Both images went there as files.
    assert task.usage["input_tokens_details"]["image_tokens"] == 200


def test_a_partial_image_for_which_there_is_no_thread_is_dropped(
    linked_sqlite: Services, sandbox: Client
) -> None:
    task = held(linked_sqlite, sandbox.photo)
    image = [base64.b64encode(png())]
    with Partials(linked_sqlite, task.id) as keep:
        with no_more_threads():
            keep(image)
        keep(image)

    assert len(shown(linked_sqlite, task)["partial_images"]) == 1


def test_a_stream_brings_partial_images_before_the_result(
    linked: Services, sandbox: Client
) -> None:
    task = held(linked, sandbox.photo, n=2, stream=True, partial_images=2)
    run_next(linked, Kind.HOLD)
    partials = shown(linked, task)["partial_images"]

    assert timeline(linked, task)[:5] == [
        "created", "submitting", "submitted", "partial_image", "partial_image",
    ]  # fmt: skip
    assert [partial["index"] for partial in partials] == [0, 1]
    for partial in partials:
        token = ".".join(partial["url"].rpartition("/")[2].split(".")[:3])
        read = linked.signing.read_picture_token(token)
        with linked.db.reading() as session:
            _, key = reports.find_picture(session, read.picture, read.id)
        with linked.storage.open(str(key)) as file:
            data = file.read()
        assert len(data) == partial["bytes"]
        assert Pillow.open(io.BytesIO(data)).get_format_mimetype() == partial["content_type"]
    task = settle(linked, task)
    assert task.status is TaskStatus.SUCCEEDED
    assert [image.sha256 for image in images_of(linked, task)] == [
        image["sha256"] for image in sandbox.state()["images"]
    ]
    assert task.usage is not None
    assert task.usage["output_tokens"] == 2200


@pytest.mark.parametrize(
    ("prompt", "status", "code"),
    [
        ("[cut stream]", TaskStatus.FAILED, "incomplete_stream"),
        ("[stream error]", TaskStatus.FAILED, "server_error"),
        ("[broken stream]", TaskStatus.UNCERTAIN, None),
        ("[hang up after]", TaskStatus.UNCERTAIN, None),
        ("[504]", TaskStatus.UNCERTAIN, None),
        ("[bare 500]", TaskStatus.UNCERTAIN, None),
        ("[bad partial]", TaskStatus.RECEIVED, None),
        ("[no done]", TaskStatus.RECEIVED, None),
    ],
)
def test_a_stream_that_goes_wrong_is_told_and_never_sent_again(
    linked_sqlite: Services, sandbox: Client, prompt: str, status: TaskStatus, code: str | None
) -> None:
    task = held(linked_sqlite, sandbox.photo, prompt=prompt, stream=True, partial_images=1)
    if code == "incomplete_stream":
        assert isinstance(fail_next(linked_sqlite, Kind.HOLD), ProviderError)
    else:
        run_next(linked_sqlite, Kind.HOLD)

    task = get_task(linked_sqlite, task.id)
    assert (task.status, task.error_code, task.submitting_at) == (status, code, None)
    expected = {"[bad partial]": 0, "[hang up after]": 0, "[504]": 0, "[bare 500]": 0}
    assert len(shown(linked_sqlite, task)["partial_images"]) == expected.get(prompt, 1)
    assert "hold" not in due_kinds(linked_sqlite)


def test_nobody_can_be_asked_so_that_it_fails_soon(
    linked_sqlite: Services, sandbox: Client
) -> None:
    task = held(linked_sqlite, sandbox.photo, prompt="[hang up after]")
    run_next(linked_sqlite, Kind.HOLD)
    for status in (TaskStatus.UNCERTAIN, TaskStatus.FAILED):
        with linked_sqlite.db.transaction() as session:
            jobs.enqueue(session, jobs.New(Kind.RECONCILE, provider="agcloud"))
            session.get_one(Task, task.id).ask_at = db_now()
        run_next(linked_sqlite, Kind.RECONCILE)
        task = get_task(linked_sqlite, task.id)
        assert task.status is status

    assert (task.error_code, task.ask_at) == ("unknown_outcome", None)
    assert sandbox.state()["submissions"] == {str(task.id): 1}


def test_refusals_are_tried_again_or_final(linked_sqlite: Services, sandbox: Client) -> None:
    task = held(linked_sqlite, sandbox.photo, prompt="[429 1] [500 1]")
    for code in ("too_many_requests", "api_error"):
        error = fail_next(linked_sqlite, Kind.HOLD)
        assert isinstance(error, ProviderError)
        assert (error.code, error.permanent) == (code, False)
        assert get_task(linked_sqlite, task.id).status is TaskStatus.QUEUED
    assert settle(linked_sqlite, task).status is TaskStatus.SUCCEEDED
    assert sandbox.state()["submissions"] == {str(task.id): 1}

    refused = held(linked_sqlite, sandbox.photo, prompt="[forbidden]")
    fail_next(linked_sqlite, Kind.HOLD)
    refused = get_task(linked_sqlite, refused.id)
    assert (refused.status, refused.error_status) == (TaskStatus.FAILED, 403)
    assert (refused.error_code, "safety" in str(refused.error_message)) == ("forbidden", True)


@pytest.mark.parametrize(
    ("answer", "error", "final"),
    [
        (Answer(404), ImageError, True),
        (Answer(503), ImageError, False),
        (Answer(200, b"<html>"), InvalidFieldError, True),
        (Answer(302, headers={"Location": "http://10.0.0.1/"}), ImageError, True),
    ],
)
def test_a_source_that_is_no_image_fails_before_any_money(
    linked_sqlite: Services, sandbox: Client, host: Site, answer: Answer,
    error: type[PostbackError], final: bool,
) -> None:  # fmt: skip
    host.replies["/bad.png"] = answer
    task = held(linked_sqlite, [sandbox.photo, f"{host.url}/bad.png"])

    raised = fail_next(linked_sqlite, Kind.HOLD)

    assert isinstance(raised, error)
    assert str(raised).startswith("image 2: ")
    task = get_task(linked_sqlite, task.id)
    assert task.status is (TaskStatus.FAILED if final else TaskStatus.QUEUED)
    assert task.error_status == (400 if final else None)
    assert "submitting" not in timeline(linked_sqlite, task)
    assert sandbox.state()["submissions"] == {}


def test_all_sources_of_an_edit_have_their_time_together(
    linked_sqlite: Services, host: Site
) -> None:
    def slowly(_: Asked) -> Answer:
        time.sleep(0.4)  # this is what the test is about
        return Answer(200, png())

    paths = [f"/{number}.png" for number in range(1, 7)]
    host.replies.update(dict.fromkeys(paths, slowly))
    held(linked_sqlite, [host.url + path for path in paths])
    job = claim(linked_sqlite, Kind.HOLD)
    inputs = edits.inputs_of(linked_sqlite, job)

    rule = r"image [1-3]: .* in time; all images of an edit have 1 s together"
    with (
        pytest.raises(ImageError, match=rule) as raised,
        sources.at_hand(linked_sqlite, job, inputs, seconds=1),
    ):
        pass
    assert not raised.value.permanent
    assert host.asked(paths[3]) == []


def test_no_more_sources_are_fetched_for_a_task_that_is_not_to_be_sent_any_more(
    linked_sqlite: Services, sandbox: Client, host: Site
) -> None:
    def canceling(_: Asked) -> Answer:
        with linked_sqlite.db.transaction() as session:
            tasks.cancel(session, tasks.lock(session, task.id))
        return Answer(200, png())

    host.replies["/first.png"] = canceling
    task = held(linked_sqlite, [f"{host.url}/first.png", host.serve("/second.png", png())])
    run_next(linked_sqlite, Kind.HOLD)

    assert host.asked("/second.png") == []
    assert timeline(linked_sqlite, task) == ["created", "canceled"]
    assert sandbox.state()["submissions"] == {}


def test_an_uploaded_source_comes_from_storage(linked_sqlite: Services, sandbox: Client) -> None:
    task = make_task(linked_sqlite, provider="agcloud", image=None)
    linked_sqlite.storage.put("inputs/a.png", io.BytesIO(png(64, 64)), "image/png")
    with linked_sqlite.db.transaction() as session:
        session.add(Input(task_id=task.id, role=Role.IMAGE, index=0, key="inputs/a.png",
                          content_type="image/png", size=1))  # fmt: skip
    assert settle(linked_sqlite, task).status is TaskStatus.SUCCEEDED
    assert sandbox.state()["submissions"] == {str(task.id): 1}


def test_a_worker_that_died_while_it_held_a_call_leaves_it_uncertain(
    linked_sqlite: Services, sandbox: Client
) -> None:
    task = held(linked_sqlite, sandbox.photo)
    job = claim(linked_sqlite, Kind.HOLD)
    # It died before it had sent anything: the next one does.
    conclude(linked_sqlite, job, holds.lost(linked_sqlite, job))
    assert get_task(linked_sqlite, task.id).status is TaskStatus.RECEIVED

    second = held(linked_sqlite, sandbox.photo)
    job = claim(linked_sqlite, Kind.HOLD)
    edits.begin(linked_sqlite, job)
    conclude(linked_sqlite, job, holds.lost(linked_sqlite, job))
    assert get_task(linked_sqlite, second.id).status is TaskStatus.UNCERTAIN
    assert sandbox.state()["submissions"] == {str(task.id): 1}
    # Which says nothing of the provider.
    assert count(linked_sqlite.db, Circuit) == 0


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_that_comes_after_the_lease_was_lost_is_taken_in(
    linked: Services, sandbox: Client, stream: bool
) -> None:
    task = held(linked, sandbox.photo, prompt="[slow answer 0.5]", stream=stream)
    first = claim(linked, Kind.HOLD, seconds=0.1)
    # As if the worker had been stopped when it had just begun to send.
    first.lease.expires_at += 60
    ending = holds.hold(linked, first)
    second = claim(linked, Kind.HOLD)
    assert second.lost
    conclude(linked, second, holds.lost(linked, second))
    with pytest.raises(LeaseLostError):
        conclude(linked, first, ending)
    assert settle(linked, task).status is TaskStatus.SUCCEEDED
    assert sandbox.state()["submissions"] == {str(task.id): 1}


def test_a_late_answer_replaces_an_unknown_outcome_and_nobody_misses_a_deleted_task(
    linked: Services,
) -> None:
    lost = {"status": TaskStatus.FAILED, "error_code": "unknown_outcome", "finished_at": db_now()}
    task = held(linked, "https://a.test/1.png", columns=lost)
    body = json.dumps({"data": [{"url": "https://a.test/2.png"}], "padding": "x" * 70_000}).encode()
    result = holds.answers.read(linked.providers["agcloud"], io.BytesIO(body))
    assert isinstance(result, Result)

    holds.answers.take_in(linked, task.id, io.BytesIO(body), result)
    task = get_task(linked, task.id)
    assert (task.status, task.error_code) == (TaskStatus.RECEIVED, None)
    assert timeline(linked, task) == ["created", "received"]

    chunks = count(linked.db, Chunk)
    holds.answers.take_in(linked, new_id(), io.BytesIO(body), result)
    assert count(linked.db, Chunk) == chunks == 1


def test_a_large_answer_is_kept_in_chunks(linked: Services, sandbox: Client) -> None:
    task = held(linked, sandbox.photo, prompt="[huge 3]")
    run_next(linked, Kind.HOLD)

    (callback,) = callbacks_of(linked, task)
    assert (callback.body, callback.size, callback.checked) == (None, 3_000_000, True)
    assert settle(linked, task).status is TaskStatus.SUCCEEDED
    (image,) = images_of(linked, task)
    assert image.sha256 == sandbox.state()["images"][0]["sha256"]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"<html>", TaskStatus.UNCERTAIN),
        (b'{"data": []}', TaskStatus.UNCERTAIN),
        (b'{"error": {"type": "forbidden", "message": "no"}}', TaskStatus.FAILED),
    ],
)
def test_an_answer_that_is_none_is_uncertain_and_an_error_is_one(
    scripted: Services, host: Site, body: bytes, status: TaskStatus
) -> None:
    host.serve(EDITS, body)
    task = held(scripted, host.serve("/photo.png", png()))
    run_next(scripted, Kind.HOLD)

    assert get_task(scripted, task.id).status is status
    assert len(host.asked(EDITS)) == 1


def test_what_was_completed_counts_although_the_rest_is_missing(
    scripted: Services, host: Site
) -> None:
    event = {"type": "image_edit.completed", "b64_json": "aGVsbG8=", "revised_prompt": 'a "cat"'}
    events = f": hello\r\nevent: x\r\ndata: {json.dumps(event)}\r\n\r\ndata: {{broken\n\n"
    host.serve(EDITS, events.encode(), headers={"Content-Type": "text/event-stream"})
    task = held(scripted, host.serve("/photo.png", png()), stream=True, n=2)
    run_next(scripted, Kind.HOLD)

    assert get_task(scripted, task.id).status is TaskStatus.RECEIVED
    run_next(scripted, Kind.INGEST)
    (image,) = images_of(scripted, task)
    assert image.revised_prompt == 'a "cat"'
    assert hashlib.sha256(b"hello").hexdigest() != image.sha256

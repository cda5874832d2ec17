"""Submissions that come again: under a key, or because their caller has got no answer."""

import socket
import time
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import update
from werkzeug.test import TestResponse

from app import keys, resends
from app.columns import db_now
from app.jobs import Kind
from app.models import Scope, Task
from tests.factories import (
    eventually,
    fail_next,
    failure,
    get_task,
    png,
    run_next,
    submission,
    success,
)
from tests.web.sites import Site, all_at_once, data_url, error_of, json_of, tasks_of
from tests.web.test_synchronous_submissions import ending

EDITS = "/v1/images/edits"
WAITING: dict[str, Any] = {"async": None}


def submit(
    site: Site, key: str | None = None, *, gone: bool = False, **fields: Any
) -> TestResponse:
    """Submit an edit; `gone` is whether the client has hung up when the answer is there."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        if gone:
            theirs.close()
        return site.call(
            "POST",
            EDITS,
            json=submission(**fields),
            headers={"Idempotency-Key": key} if key is not None else {},
            environ_overrides={"gunicorn.socket": ours},
        )


def submit_at_once(site: Site, calls: int, *args: Any, **fields: Any) -> list[TestResponse]:
    """The answers to so many equal submissions that begin together."""
    # Made before they all would.
    site.key(Scope.ADMIN)
    return all_at_once(calls, lambda: submit(site, *args, **fields))


def id_of(response: TestResponse) -> str:
    return str(json_of(response)["task_id"])


def set_all(site: Site, **columns: Any) -> None:
    with site.parts.db.transaction() as session:
        session.execute(update(Task).values(columns))


def test_under_one_key_there_is_one_task(site: Site) -> None:
    first, again = submit(site, "k", prompt="a"), submit(site, "k", prompt="a")
    assert json_of(again) == json_of(first)
    assert "Idempotent-Replayed" not in first.headers
    assert again.headers["Idempotent-Replayed"] == "true"
    assert again.headers["Location"] == first.headers["Location"]

    error = error_of(submit(site, "k", prompt="b"), 422)
    assert error["code"] == "idempotency_mismatch"
    # The key is its caller's own, and means nothing to anybody else.
    with site.parts.db.transaction() as session:
        other = keys.create(session, site.parts.signing, "other", {Scope.SUBMIT})
    headers = {"Authorization": f"Bearer {other}", "Idempotency-Key": "k"}
    theirs = site.new_client().post(EDITS, json=submission(prompt="b"), headers=headers)
    assert id_of(theirs) != id_of(first)
    assert len(tasks_of(site.parts)) == 2


@pytest.mark.parametrize("key", ["", "k" * 256])
def test_a_key_that_cannot_be_kept_is_named(sqlite_site: Site, key: str) -> None:
    assert error_of(submit(sqlite_site, key), 400)["param"] == "Idempotency-Key"
    assert tasks_of(sqlite_site.parts) == []
    assert submit(sqlite_site, "k" * 255).status_code == 200


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_a_key_beyond_ascii_is_taken_as_it_was_written(sqlite_site: Site, encoding: str) -> None:
    written = "ü" * 255
    # As a server hands it over.
    key = written.encode(encoding).decode("latin-1")
    assert submit(sqlite_site, key, prompt="a").status_code == 200
    error = error_of(submit(sqlite_site, key, prompt="b"), 422)
    assert f"Idempotency-Key: {written!r} was used" in error["message"]


@pytest.mark.parametrize("fields", [{}, WAITING])
def test_racing_calls_under_one_key_make_one_task(site: Site, fields: dict[str, Any]) -> None:
    site.parts.db.listen()
    with ending(site, lambda task: site.finish(task, png())):
        answers = submit_at_once(site, 8, "k", **fields)
    assert len({id_of(answer) for answer in answers}) == 1
    assert [answer.status_code for answer in answers] == [200] * 8
    assert sum("Idempotent-Replayed" not in answer.headers for answer in answers) == 1
    assert len(tasks_of(site.parts)) == 1


def test_calls_that_wait_at_the_same_time_join_one_task(site: Site) -> None:
    site.parts.db.listen()

    def finish(task: Task) -> None:
        # Not before all of them wait, and nothing else tells of it.
        waiting = site.flask.extensions["waiters"]._waiting  # noqa: SLF001
        eventually(lambda: len(waiting.get(task.id, ())) == 8)
        site.finish(task, png())

    with ending(site, finish):
        answers = submit_at_once(site, 8, **WAITING)
    assert len({id_of(answer) for answer in answers}) == 1
    # They all were answered: the next one is another edit.
    with ending(site, lambda task: site.finish(task, png())):
        assert id_of(submit(site, **WAITING)) != id_of(answers[0])


def test_calls_that_were_answered_are_edits_of_their_own(site: Site) -> None:
    """However soon one comes after the other, and also from many at once."""
    assert len({id_of(submit(site)) for _ in range(5)}) == 5
    answers = submit_at_once(site, 6)
    assert len({id_of(answer) for answer in answers}) == 6
    assert len(tasks_of(site.parts)) == 11


def test_who_has_got_no_answer_does_not_pay_twice(site: Site) -> None:
    lost = id_of(submit(site, gone=True))
    other = id_of(submit(site, prompt="something else"))
    assert id_of(submit(site, gone=True)) == lost
    assert id_of(submit(site)) == lost
    assert id_of(submit(site)) not in {lost, other}
    assert get_task(site.parts, tasks_of(site.parts)[0]).answering_at is None


def test_an_answer_nobody_noted_counts_as_not_given(site: Site) -> None:
    """The process died while it answered: after a moment its task is joined."""
    first = id_of(submit(site))
    set_all(site, answered_at=None, answering_at=db_now())
    started = time.monotonic()
    assert id_of(submit(site)) == first
    assert resends.OUTCOME_SECONDS <= time.monotonic() - started < 10
    assert get_task(site.parts, tasks_of(site.parts)[0]).answered_at is not None


def test_after_the_window_an_edit_is_another_one(site: Site) -> None:
    lost = id_of(submit(site, gone=True))
    window = site.parts.config.resend_window
    set_all(site, created_at=db_now(5 - window))
    assert id_of(submit(site, gone=True)) == lost
    set_all(site, created_at=db_now(-5 - window))
    assert id_of(submit(site)) != lost


def test_our_own_time_out_is_no_answer(site_with: Callable[..., Site]) -> None:
    site = site_with(sync_wait="0.1s")
    first = submit(site, **WAITING)
    assert error_of(first, 504)["code"] == "timeout"
    again = submit(site, **WAITING)
    assert (error_of(again, 504)["code"], id_of(again)) == ("timeout", id_of(first))
    keyed = [submit(site, "k", **WAITING, prompt="keyed") for _ in range(2)]
    assert id_of(keyed[0]) == id_of(keyed[1])
    assert len(tasks_of(site.parts)) == 2


FREE = [("api_error", 500), ("too_many_requests", 429), ("unheard_of", 500)]
DOUBTFUL = [("timeout", 504), ("unknown_outcome", 500)]
FINAL = [("forbidden", 403), ("bad_request", 400)]


@pytest.mark.parametrize(("code", "status"), [*FREE, *DOUBTFUL, *FINAL])
@pytest.mark.parametrize("key", [None, "k"])
def test_whether_an_error_is_sent_again(
    sqlite_site: Site, code: str, status: int, key: str | None
) -> None:
    """A failure that surely cost nothing begins anew; one in doubt never; a refusal is what it is."""
    site = sqlite_site
    with ending(site, lambda task: site.post_back(task, failure(code))):
        first = submit(site, key, **WAITING)
    free, doubtful = (code, status) in FREE, (code, status) in DOUBTFUL
    assert error_of(first, status)["code"] == code
    assert first.headers.get("x-should-retry") == (None if free else "false")
    assert ("Retry-After" in first.headers) == (status == 429)

    begins_anew = free or (key is None and not doubtful)
    if not begins_anew:
        again = submit(site, key, **WAITING)
        assert (again.status_code, id_of(again)) == (status, id_of(first))
        assert again.headers.get("Idempotent-Replayed") == ("true" if key else None)
        return
    with ending(site, lambda task: site.finish(task, png())):
        again = submit(site, key, **WAITING)
    assert (again.status_code, id_of(again) == id_of(first)) == (200, False)
    assert "Idempotent-Replayed" not in again.headers


def test_a_result_that_could_not_be_stored_was_paid_for(sqlite_site: Site) -> None:
    site = sqlite_site

    def spoil(task: Task) -> None:
        site.post_back(task, success(data_url(b"no image")))
        run_next(site.parts, Kind.INGEST)
        fail_next(site.parts, Kind.STORE_IMAGE)

    with ending(site, spoil):
        first = submit(site, **WAITING)
    assert first.status_code == 500
    assert first.headers["x-should-retry"] == "false"
    assert id_of(submit(site, **WAITING)) == id_of(first)


def test_who_waits_and_hangs_up_gives_the_place_back(sqlite_site: Site) -> None:
    response = submit(sqlite_site, gone=True, **WAITING)
    assert (response.status_code, response.get_data()) == (499, b"")
    (id_,) = tasks_of(sqlite_site.parts)
    assert get_task(sqlite_site.parts, id_).status == "queued"

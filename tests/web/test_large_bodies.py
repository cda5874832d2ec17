"""A body that is too large to be read at once is stored now and read by the worker."""

import json
from typing import Any

from sqlalchemy import func, select

from app.bodies import CHUNK_BYTES, INLINE_BYTES
from app.jobs import Kind
from app.models import Chunk
from app.services import Services
from tests.factories import due_kinds, make_task, run_next, success
from tests.web.sites import DUPLICATE, Site, accepted, all_at_once, data_url, error_of, json_of


def chunks(parts: Services) -> int:
    with parts.db.reading() as session:
        return session.scalar(select(func.count()).select_from(Chunk)) or 0


def large(**fields: Any) -> bytes:
    """A success whose body is too large to be read at once."""
    return json.dumps(success(data_url(bytes(INLINE_BYTES)), **fields)).encode()


def test_the_largest_small_body_is_read_at_once(sqlite_site: Site) -> None:
    task = make_task(sqlite_site.parts)
    padding = INLINE_BYTES - len(json.dumps(success(padding="")))
    body = json.dumps(success(padding=padding * "x")).encode()
    assert len(body) == INLINE_BYTES

    assert json_of(sqlite_site.post_back(task, body)) == accepted(task)
    assert sqlite_site.look_up(task)["status"] == "received"
    assert chunks(sqlite_site.parts) == 0


def test_a_large_body_is_stored_once_and_read_by_the_worker(site: Site) -> None:
    task = make_task(site.parts)
    body = large(task_id="theirs", more=[data_url(bytes(CHUNK_BYTES))])
    assert json_of(site.post_back(task, body)) == accepted(task)
    assert json_of(site.post_back(task, body)) == DUPLICATE

    seen = site.look_up(task)
    assert seen["status"] == "queued"
    (callback,) = seen["callbacks"]
    assert callback["bytes"] == len(body)
    assert chunks(site.parts) == len(body) // CHUNK_BYTES + 1
    assert site.get(f"/v1/callbacks/{callback['id']}/body").get_data() == body

    run_next(site.parts, Kind.INGEST)
    seen = site.look_up(task)
    assert (seen["status"], seen["provider_task_id"]) == ("received", "theirs")


def test_a_large_body_twenty_times_at_once_is_stored_once(site: Site) -> None:
    task = make_task(site.parts)
    body = large()
    answers = all_at_once(20, lambda: json_of(site.post_back(task, body)))

    assert sorted(answer["status"] for answer in answers) == ["accepted"] + 19 * ["duplicate"]
    assert chunks(site.parts) == 1
    assert due_kinds(site.parts).count(Kind.INGEST) == 1


def test_a_large_body_that_is_no_result_ends_in_the_rejection_log(sqlite_site: Site) -> None:
    site = sqlite_site
    task = make_task(site.parts, columns={"provider_task_id": "theirs"})
    for body in (
        b"no JSON " * INLINE_BYTES,
        json.dumps({"padding": INLINE_BYTES * "x"}).encode(),
        large(task_id="another"),
    ):
        assert json_of(site.post_back(task, body)) == accepted(task)
        run_next(site.parts, Kind.INGEST)

        assert site.look_up(task)["status"] == "queued"
        entry, *_ = site.rejections()
        assert entry["reason"]
        for _ in range(2):
            assert site.get(f"/v1/callbacks/{entry['id']}/body").get_data() == body
            error_of(site.post_back(task, body), 422)

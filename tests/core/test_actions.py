"""What people do to a task: take it back, copy again, ask, pay again, delete."""

import io
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import delete as delete_rows
from sqlalchemy import select, update

from app import actions, jobs
from app.columns import db_now
from app.errors import ConflictError, MissingObjectError, NotFoundError, StorageError
from app.inbox import Outcome
from app.jobs import Kind
from app.keys import Actor
from app.models import (
    Audit,
    Event,
    Image,
    ImageStatus,
    Input,
    Partial,
    Role,
    Task,
    TaskStatus,
    new_id,
)
from app.models import Job as JobRow
from app.services import Services
from app.storage.local import LocalStorage
from app.worker import HANDLERS
from tests.core.conftest import at_once
from tests.core.sites import Site, json_answer
from tests.core.test_images import with_storage_down
from tests.core.test_reconcile import TASKS, items, known, run_periodic
from tests.factories import (
    claim,
    deliver,
    fail_next,
    failure,
    get_task,
    images_of,
    make_task,
    png,
    run_next,
    success,
    take,
    timeline,
)

PERSON = Actor("a person", "192.0.2.7")


def cancel(parts: Services, task: Task) -> None:
    with parts.db.transaction() as session:
        actions.cancel(session, str(task.id), PERSON)


def retry(parts: Services, task: Task) -> None:
    with parts.db.transaction() as session:
        actions.retry(session, str(task.id), PERSON)


def reconcile(parts: Services, task: Task) -> None:
    with parts.db.transaction() as session:
        actions.reconcile(session, parts, str(task.id), PERSON)


def resubmit(parts: Services, task: Task) -> Task:
    return actions.resubmit(parts, str(task.id), PERSON, None)


def delete(parts: Services, task: Task) -> None:
    actions.delete(parts, str(task.id), PERSON)


def audits(parts: Services) -> list[tuple[str, str, str | None, str | None]]:
    with parts.db.reading() as session:
        rows = session.scalars(select(Audit).order_by(Audit.id)).all()
    return [(row.actor, row.action, row.subject, row.address) for row in rows]


def fails_for_good(parts: Services, host: Site) -> Task:
    """A task whose two images were not there; the host has them from now on."""
    task = make_task(parts)
    urls = [host.serve(f"/{name}.png", b"", status=404) for name in "ab"]
    deliver(parts, task, success(*urls))
    while get_task(parts, task.id).status is TaskStatus.RECEIVED:
        fail_next(parts, Kind.STORE_IMAGE)
    for path in ("/a.png", "/b.png"):
        host.serve(path, png())
    return get_task(parts, task.id)


def test_a_queued_task_is_canceled_and_never_sent(parts: Services) -> None:
    task = make_task(parts, columns={"provider_task_id": "theirs"})
    with parts.db.transaction() as session:
        actions.cancel(session, "theirs", PERSON)

    assert HANDLERS[Kind.SUBMIT].run(parts, claim(parts, Kind.SUBMIT)) is None
    task = get_task(parts, task.id)
    assert (task.status, task.finished_at is not None) == (TaskStatus.CANCELED, True)
    assert timeline(parts, task) == ["created", "canceled"]
    assert audits(parts) == [("a person", "cancel", str(task.id), "192.0.2.7")]


@pytest.mark.parametrize(
    ("act", "columns", "says"),
    [
        (cancel, {"status": TaskStatus.SUBMITTED}, "only a queued task can be canceled"),
        (cancel, {"submitting_at": db_now()}, "on its way"),
        (delete, {"submitting_at": db_now()}, "on its way"),
        (delete, {"status": TaskStatus.RECEIVED}, "is being stored"),
        (retry, {"status": TaskStatus.SUBMITTED}, "has no result"),
        (retry, {"status": TaskStatus.FAILED}, "has no result"),
        (retry, {"status": TaskStatus.SUCCEEDED}, "all images of this task are stored"),
        (retry, {"status": TaskStatus.RECEIVED}, "are being copied"),
        (reconcile, {}, "nothing to ask"),
        (reconcile, {"status": TaskStatus.SUCCEEDED}, "nothing to add"),
    ],
)
def test_what_does_not_go_with_how_the_task_is_changes_nothing(
    sqlite_parts: Services,
    act: Callable[[Services, Task], None],
    columns: dict[str, object],
    says: str,
) -> None:
    task = make_task(sqlite_parts, columns=columns)
    with pytest.raises(ConflictError, match=says):
        act(sqlite_parts, task)
    assert get_task(sqlite_parts, task.id).status is task.status
    assert (timeline(sqlite_parts, task), audits(sqlite_parts)) == (["created"], [])


def test_nobody_can_act_on_a_task_that_is_not_there(sqlite_parts: Services) -> None:
    for act in (cancel, retry, reconcile, resubmit, delete):
        with pytest.raises(NotFoundError):
            act(sqlite_parts, Task(id=new_id()))


def test_either_the_request_goes_out_or_the_task_is_canceled(
    linked: Services, acedata: Site
) -> None:
    parts = linked
    acedata.replies["/openai/images/edits"] = json_answer({"success": True, "task_id": "theirs"})
    task = make_task(parts)
    job = claim(parts, Kind.SUBMIT)

    def take_back() -> bool:
        try:
            cancel(parts, task)
        except ConflictError:
            return False
        return True

    canceled, _ = at_once(take_back, lambda: HANDLERS[Kind.SUBMIT].run(parts, job))
    assert ("submitting" in timeline(parts, task)) != canceled


def test_images_that_failed_are_copied_again(parts: Services, host: Site) -> None:
    task = fails_for_good(parts, host)
    assert (task.status, task.error_code) == (TaskStatus.FAILED, "image_unavailable")

    retry(parts, task)
    again = get_task(parts, task.id)
    assert (again.status, again.error_code, again.finished_at) == (TaskStatus.RECEIVED, None, None)
    with pytest.raises(ConflictError, match="are being copied"):
        retry(parts, task)
    for _ in range(2):
        run_next(parts, Kind.STORE_IMAGE)

    assert get_task(parts, task.id).status is TaskStatus.SUCCEEDED
    assert {image.status for image in images_of(parts, task)} == {ImageStatus.STORED}
    assert timeline(parts, task)[-4:] == ["retried", "image_stored", "image_stored", "succeeded"]


def test_bytes_that_were_put_aside_are_copied_although_their_link_is_dead(
    parts: Services, host: Site
) -> None:
    task = make_task(parts)
    deliver(parts, task, success(host.serve("/a.png", png())))
    fail_next(with_storage_down(parts), Kind.STORE_IMAGE)
    host.serve("/a.png", b"", status=404)
    with parts.db.transaction() as session:
        session.execute(delete_rows(JobRow).where(JobRow.kind == Kind.STORE_IMAGE))
        session.execute(update(Image).values(status=ImageStatus.FAILED, error_code="api_error"))
        session.execute(update(Task).values(status=TaskStatus.FAILED))

    retry(parts, task)
    run_next(parts, Kind.STORE_IMAGE)
    assert get_task(parts, task.id).status is TaskStatus.SUCCEEDED


def test_a_result_that_could_not_be_read_is_read_again(sqlite_parts: Services) -> None:
    parts = sqlite_parts
    task = make_task(parts)
    take(parts, task, success())
    job = claim(parts, Kind.INGEST)
    with parts.db.transaction() as session:
        jobs.finish(session, job)
        failed = HANDLERS[Kind.INGEST].failed
        assert failed is not None
        failed(session, job, RuntimeError("a mistake in the program"), True)
    assert get_task(parts, task.id).status is TaskStatus.FAILED

    retry(parts, task)
    run_next(parts, Kind.INGEST)
    assert len(images_of(parts, task)) == 1


def test_the_provider_is_asked_with_the_next_lookup(linked: Services, acedata: Site) -> None:
    """Also about a task that was given up: a late success still wins, a late failure says nothing."""
    parts = linked
    given_up = {"status": TaskStatus.FAILED, "error_code": "timeout", "finished_at": db_now()}
    silent = make_task(parts, columns={"status": TaskStatus.SUBMITTED, "ask_at": db_now(600)})
    late, refused, lost = (make_task(parts, columns=given_up) for _ in range(3))
    for task in (silent, late, refused, lost):
        reconcile(parts, task)
    acedata.replies[TASKS] = items(known(late, success()), known(refused, failure()), known(silent))

    run_periodic(parts, Kind.RECONCILE)

    asked = acedata.asked(TASKS)[0].json["trace_ids"]
    assert len(acedata.asked(TASKS)) == 1
    assert set(asked) == {str(task.id) for task in (silent, late, refused, lost)}
    assert get_task(parts, late.id).status is TaskStatus.RECEIVED
    for task in (refused, lost):
        assert get_task(parts, task.id).ask_at is None
        assert timeline(parts, task) == ["created", "asked"]


def upload(parts: Services, task: Task) -> str:
    """An uploaded input and a partial image of the task; the input's key."""
    key = f"inputs/{new_id()}.png"
    parts.storage.put(key, io.BytesIO(png()), "image/png")
    parts.storage.put(f"{key}.partial.png", io.BytesIO(png()), "image/png")
    with parts.db.transaction() as session:
        session.add_all(
            [
                Input(task_id=task.id, role=Role.MASK, index=0, key=key, content_type="image/png"),
                Partial(
                    task_id=task.id,
                    index=0,
                    key=f"{key}.partial.png",
                    content_type="image/png",
                    size=1,
                ),
            ]
        )
    return key


def inputs_of(parts: Services, task: Task) -> list[tuple[str, str | None, str | None]]:
    with parts.db.reading() as session:
        rows = session.scalars(select(Input).filter_by(task_id=task.id).order_by(Input.role)).all()
    return [(row.role, row.source_url, row.key) for row in rows]


def test_resubmitting_makes_a_new_task_with_files_of_its_own(parts: Services) -> None:
    task = make_task(parts, metadata={"shop": "3"})
    key = upload(parts, task)

    new = get_task(parts, resubmit(parts, task).id)

    assert (new.status, new.request, new.labels) == (TaskStatus.QUEUED, task.request, task.labels)
    (image, mask) = inputs_of(parts, new)
    assert image == (Role.IMAGE, task.request["image"], None)
    assert (mask[0], mask[2] != key) == (Role.MASK, True)
    with parts.storage.open(str(mask[2])) as file:
        assert file.read() == png()
    with parts.db.reading() as session:
        named = select(Event.detail).filter_by(event="resubmitted")
        assert list(session.scalars(named.order_by(Event.task_id))) == [
            {"as": str(new.id)},
            {"of": str(task.id)},
        ]
    assert audits(parts) == [("a person", "resubmit", str(task.id), "192.0.2.7")]


def test_a_double_click_pays_once(parts: Services) -> None:
    task = make_task(parts)
    key = upload(parts, task)
    new, same = at_once(*[lambda: resubmit(parts, task).id] * 2)
    assert new == same
    with parts.db.transaction() as session:
        session.execute(update(Event).values(at=db_now(-actions.DOUBLE_CLICK_SECONDS)))
    another = resubmit(parts, task)
    assert another.id != new
    names = {path.name for path in Path(parts.config.local_storage_dir, "inputs").iterdir()}
    assert names == {str(new), str(another.id), Path(key).name, f"{Path(key).name}.partial.png"}


def test_without_its_files_nothing_is_submitted_again(sqlite_parts: Services) -> None:
    task = make_task(sqlite_parts)
    sqlite_parts.storage.delete([upload(sqlite_parts, task)])
    with pytest.raises(StorageError):
        resubmit(sqlite_parts, task)
    assert timeline(sqlite_parts, task) == ["created"]


def test_a_deleted_task_leaves_nothing_but_the_note_of_it(parts: Services, host: Site) -> None:
    task = make_task(parts)
    deliver(parts, task, success(host.serve("/a.png", png())))
    run_next(parts, Kind.STORE_IMAGE)
    (image,) = images_of(parts, task)
    key = upload(parts, task)

    delete(parts, task)

    with parts.db.reading() as session:
        assert session.get(Task, task.id) is None
        assert session.get(Image, image.id) is None
    for gone in (image.key, image.thumbnail_key, key, f"{key}.partial.png"):
        with pytest.raises(MissingObjectError):
            parts.storage.open(str(gone))
    assert audits(parts) == [("a person", "delete", str(task.id), "192.0.2.7")]


def test_a_task_whose_call_is_open_is_not_deleted(sqlite_parts: Services) -> None:
    task = make_task(sqlite_parts, columns={"status": TaskStatus.SUBMITTED})
    with sqlite_parts.db.transaction() as session:
        jobs.enqueue(session, jobs.New(Kind.HOLD, task.id, provider="agcloud"))
    with pytest.raises(ConflictError, match="is open"):
        delete(sqlite_parts, task)


def test_what_has_not_ended_is_canceled_before_its_objects_go(sqlite_parts: Services) -> None:
    """So nothing begins for it meanwhile; and while storage is down it can be tried again."""

    class Down(LocalStorage):
        def delete(self, keys: Iterable[str]) -> None:
            raise StorageError(f"storage is down, {len(list(keys))} keys stay")

    down = Down(Path(sqlite_parts.config.local_storage_dir))
    task = make_task(sqlite_parts, columns={"status": TaskStatus.SUBMITTED, "ask_at": db_now()})
    with pytest.raises(StorageError):
        delete(replace(sqlite_parts, storage=down), task)
    assert get_task(sqlite_parts, task.id).status is TaskStatus.CANCELED
    assert take(sqlite_parts, task, success()) is Outcome.CONFLICT

    delete(sqlite_parts, task)
    with pytest.raises(NotFoundError):
        cancel(sqlite_parts, task)

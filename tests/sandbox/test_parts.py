"""The ledger, the gallery and the scheduler keep within their bounds."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from app.sandbox import ledger as ledgers
from app.sandbox.gallery import ClosedError, Gallery
from app.sandbox.ledger import Ledger, Task
from app.sandbox.misbehaviours import Word
from app.sandbox.scheduling import Scheduler

PATIENCE = 10.0


def task(trace_id: str) -> Task:
    return Task(trace_id=trace_id, request={}, kept=True, key=trace_id)


def test_the_oldest_tasks_are_forgotten_but_stay_counted() -> None:
    ledger = Ledger()
    for number in range(ledgers.MAX_TASKS + 2):
        ledger.accept(task(f"t-{number}"))

    assert ledger.find(trace_id="t-1") is None
    assert ledger.find(trace_id="t-2")
    assert ledger.state()["submissions"]["t-0"] == 1


def test_large_results_push_old_tasks_out_but_never_the_newest() -> None:
    ledger = Ledger()
    tasks = [task(f"t-{number}") for number in range(3)]
    for item in tasks:
        ledger.accept(item)
        ledger.finish(item, {}, ledgers.MAX_TASK_BYTES // 2 - 10)
    assert [ledger.find(task_id=item.id) is not None for item in tasks] == [False, True, True]

    ledger.finish(tasks[2], {}, ledgers.MAX_TASK_BYTES * 2)
    assert [ledger.find(task_id=item.id) is not None for item in tasks] == [False, False, True]


def test_a_trace_id_leads_to_its_newest_task() -> None:
    ledger = Ledger()
    first, second = task("same"), task("same")
    ledger.accept(first)
    ledger.accept(second)

    assert ledger.find(trace_id="same") is second
    assert ledger.find(task_id=first.id) is first
    assert ledger.state()["submissions"] == {"same": 2}
    ledger.finish(first, {}, ledgers.MAX_TASK_BYTES)
    assert ledger.find(task_id=first.id) is None
    assert ledger.find(trace_id="same") is second
    ledger.reset()
    # One that ends after a reset stays forgotten.
    ledger.finish(second, {}, 1)
    assert ledger.find(trace_id="same") is None


def test_counts_are_bounded() -> None:
    ledger = Ledger()
    for number in range(ledgers.MAX_COUNTS + 1):
        ledger.made(str(number))
        ledger.attempt(Word.ERROR_429, str(number), 1)
    for _ in range(ledgers.MAX_ANSWERS + 1):
        ledger.sent("mine", 200)

    assert len(ledger.state()["images_made"]) == ledgers.MAX_COUNTS
    # Forgotten, so that it counts from one again.
    assert ledger.attempt(Word.ERROR_429, "0", 1)
    assert not ledger.attempt(Word.ERROR_429, str(ledgers.MAX_COUNTS), 1)
    answers = ledger.state()["callbacks"]["mine"]
    assert (answers["sent"], len(answers["answers"])) == (1001, 1000)


def test_counting_loses_nothing_between_threads() -> None:
    ledger = Ledger()

    def count() -> None:
        for _ in range(2000):
            ledger.sent("mine", 200)
            ledger.accept(Task(trace_id="mine", request={}, kept=False, key="mine"))

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda _: count(), range(4)))

    assert ledger.state()["callbacks"]["mine"]["sent"] == 8000
    assert ledger.state()["submissions"]["mine"] == 8000


def test_the_gallery_keeps_the_newest_pictures() -> None:
    gallery = Gallery(limit=25)
    pictures = [gallery.add(b"x" * 10, "png", {}) for _ in range(3)]

    assert gallery.find(pictures[0].id) is None
    assert not pictures[0].path.exists()
    assert gallery.find(pictures[2].id) is pictures[2]
    # One that is larger than the limit is kept until the next.
    assert gallery.find(gallery.add(b"x" * 30, "png", {}).id)
    gallery.close()


def test_a_closed_gallery_leaves_no_file_and_takes_none() -> None:
    gallery = Gallery()
    folder = gallery.add(b"x", "png", {}).path.parent
    upload = gallery.spool(b"upload")
    assert upload.read_bytes() == b"upload"
    gallery.close()

    assert not folder.exists()
    with pytest.raises(ClosedError):
        gallery.add(b"x", "png", {})
    with pytest.raises(ClosedError):
        gallery.spool(b"x")
    assert not folder.exists()


def test_what_is_due_first_is_done_first() -> None:
    scheduler, done = Scheduler(1), []
    late = scheduler.after(0.2, lambda: done.append("late"))
    scheduler.after(0.1, lambda: done.append("soon"))
    scheduler.after(0, lambda: done.append("now"))
    late.result(PATIENCE)
    scheduler.close()

    assert done == ["now", "soon", "late"]


def test_waiting_takes_no_thread_and_ends_in_time() -> None:
    scheduler, due = Scheduler(1), time.monotonic() + 0.1
    waiting = [scheduler.after(0.1, time.monotonic) for _ in range(20)]

    delays = [future.result(PATIENCE) - due for future in waiting]
    # One after the other they would take two seconds.
    assert 0 <= min(delays) <= max(delays) < 1.5
    scheduler.close()


def test_work_runs_in_as_many_threads_as_there_are() -> None:
    scheduler, barrier = Scheduler(3), threading.Barrier(3)
    futures = [scheduler.after(0, lambda: barrier.wait(PATIENCE)) for _ in range(3)]

    assert {future.result(PATIENCE) for future in futures} == {0, 1, 2}
    scheduler.close()


def test_an_error_ends_its_own_work_only(caplog: pytest.LogCaptureFixture) -> None:
    scheduler = Scheduler(1)

    def fail() -> None:
        raise ZeroDivisionError

    failing = scheduler.after(0, fail)

    assert scheduler.after(0, lambda: "fine").result(PATIENCE) == "fine"
    assert isinstance(failing.exception(PATIENCE), ZeroDivisionError)
    assert "The sandbox failed" in caplog.text
    scheduler.close()


def test_a_scheduler_is_full_at_its_limit_and_its_end_cancels_what_waits() -> None:
    scheduler, full, waiting = Scheduler(1, limit=2), [], []
    for _ in range(2):
        full.append(scheduler.full)
        waiting.append(scheduler.after(60, lambda: None))
    full.append(scheduler.full)
    scheduler.close()

    assert full == [False, False, True]
    assert all(future.cancelled() for future in waiting)

"""Killed and cut off while callbacks arrive: what was acknowledged is there."""

from collections.abc import Callable, Iterable, Mapping

import pytest

from tests.acceptance.conftest import Logs
from tests.acceptance.sites import HASTY, Site, assert_all_done_once, events_of
from tests.acceptance.waiting import until
from tests.servers.postgres import Postgres
from tests.servers.service import running


@pytest.mark.parametrize(
    ("place", "faults"),
    [
        ("sqlite-local", ["all web processes"]),
        (
            "postgresql-s3",
            ["one web process", "PostgreSQL", "PostgreSQL at once", "all web processes"],
        ),
    ],
)
def test_what_was_acknowledged_is_there_whatever_is_killed(
    site: Site, faults: list[str], postgres: Postgres, logs: Logs, figures: list[str]
) -> None:
    logs.allowed.append("was sent SIGKILL")
    # A stream of callbacks, each five times at once, that is long enough for all of the faults.
    late = [4 + 0.3 * number for number in range(6 + 5 * len(faults))]
    with running(site.worker(RECONCILE_AFTER="7")) as worker:
        tasks = dict.fromkeys([site.submit(f"[concurrent 5] [late {at:.1f}]") for at in late], 1)
        until(lambda: all("submitted" in events_of(site.task(id_)) for id_ in tasks), "submitted")
        # From now on nobody asks the provider: there is only what it sends.
        worker.stop()
    for fault in faults:
        wait_for_more(lambda: answers(site, tasks).count(200))
        FAULTS[fault](site, postgres, lambda: wait_for_more(lambda: cut_off(site, tasks)))
    until(lambda: len(answers(site, tasks)) == 5 * len(tasks), "all callbacks were sent")

    callbacks = site.sandbox.state()["callbacks"]
    acknowledged = [id_ for id_ in tasks if 200 in callbacks[id_]["answers"]]
    found = {task_id: site.task(task_id) for task_id in tasks}
    stored = {id_ for id_, task in found.items() if task["callbacks"]}
    assert stored >= set(acknowledged)
    for id_, task in found.items():
        assert len(task["callbacks"]) == (id_ in stored)
        # Succeeded is what came before the worker was gone.
        assert task["status"] in ({"received", "succeeded"} if id_ in stored else {"submitted"})
    with running(site.worker(**HASTY)):
        assert_all_done_once(site, tasks)
    figures.append(
        f"{', '.join(faults)} killed while {5 * len(tasks)} callbacks came: "
        f"{cut_off(site, tasks)} were not acknowledged, "
        f"{len(tasks) - len(acknowledged)} of {len(tasks)} tasks had none that was"
    )


def answers(site: Site, task_ids: Iterable[str]) -> list[int | None]:
    """How the callbacks of these tasks were answered, as far as they were sent."""
    callbacks = site.sandbox.state()["callbacks"]
    sent = [callbacks[task_id]["answers"] for task_id in task_ids if task_id in callbacks]
    return [answer for answers in sent for answer in answers]


def cut_off(site: Site, task_ids: Iterable[str]) -> int:
    """How many of these callbacks were not acknowledged."""
    return sum(answer != 200 for answer in answers(site, task_ids))


def wait_for_more(count: Callable[[], int]) -> None:
    """Wait until there is more than there is now."""
    before = count()
    until(lambda: count() > before, f"more than {before}")


def kill_web(site: Site, _: Postgres, wait_until_noticed: Callable[[], None]) -> None:
    """All web processes die at once, and are away until that was noticed."""
    site.front.kill()
    wait_until_noticed()
    site.front.start()


def kill_one(site: Site, _: Postgres, __: Callable[[], None]) -> None:
    """One web process dies; its master starts another one."""
    site.front.process.children()[0].kill()


def stop_postgres(immediate: bool) -> "Fault":
    """PostgreSQL ends, as if it crashed if `immediate`, and is away until that was noticed."""

    def fault(_: Site, postgres: Postgres, wait_until_noticed: Callable[[], None]) -> None:
        postgres.stop(immediate=immediate)
        wait_until_noticed()
        postgres.start()

    return fault


Fault = Callable[[Site, Postgres, Callable[[], None]], None]
FAULTS: Mapping[str, Fault] = {
    "all web processes": kill_web,
    "one web process": kill_one,
    "PostgreSQL": stop_postgres(immediate=False),
    "PostgreSQL at once": stop_postgres(immediate=True),
}

"""Killed, stopped and cut off in the middle: no result is lost, nothing is paid or stored twice."""

import sqlite3
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest
import urllib3
from sqlalchemy import create_engine, make_url, text

from tests.acceptance.sites import (
    HASTY,
    Site,
    assert_all_done_once,
    events_of,
)
from tests.acceptance.waiting import at_once, until
from tests.servers.postgres import Postgres
from tests.servers.service import Part, all_running, running, start_all
from tests.servers.swift import Swift

# Three submissions and three jobs at once: so few that all are in use.
FEW = {**HASTY, "PROVIDER_CONCURRENCY": "3", "WORKER_CONCURRENCY": "3"}


@pytest.fixture(scope="module", autouse=True)
def _meanwhile(sent_into_silence: object) -> None:
    """What becomes of that task takes a minute: it is looked at by the tests that come last."""


def test_workers_are_killed_with_their_hands_full(both: list[Site]) -> None:
    with all_running([site.worker(**FEW) for site in both]) as workers:
        tasks = at_once(fill_hands, both, workers)
        for worker in workers:
            worker.kill_alone()
        start_all(workers)

        at_once(assert_all_done_once, both, tasks)


def test_workers_are_stopped_past_their_leases_and_others_take_over(both: list[Site]) -> None:
    with all_running([site.worker(**FEW) for site in both]) as stopped:
        tasks = at_once(fill_hands, both, stopped)
        at_once(pause_unlocked, both, stopped)
        with all_running([site.worker(**FEW) for site in both]):
            at_once(assert_all_done_once, both, tasks)

        at_once(assert_resuming_changes_nothing, both, stopped, tasks)


def assert_resuming_changes_nothing(site: Site, stopped: Part, tasks: Mapping[str, int]) -> None:
    """The worker goes on with what it had in its hands, and finds that it is its own no more."""
    before = [site.task(task_id) for task_id in tasks]
    stopped.resume()
    until(lambda: lost_jobs(stopped, "submit") == 3, "the submissions are lost to it")
    until(lambda: lost_jobs(stopped, "store_image"), "the images are lost to it")
    assert [site.task(task_id) for task_id in tasks] == before
    assert_all_done_once(site, tasks)


def test_work_that_takes_longer_than_a_lease_is_done_once(both: list[Site]) -> None:
    with all_running([site.worker(**HASTY) for site in both]) as workers:
        prompts = ["[slow image 5]", "[slow answer 5] [late 5]"]
        tasks = [{site.submit(prompt): 1 for prompt in prompts} for site in both]

        at_once(assert_all_done_once, both, tasks)
        for worker in workers:
            assert {"job lost", "job will be tried again"}.isdisjoint(
                entry["event"] for entry in worker.logged()
            )


@pytest.mark.parametrize("place", ["postgresql-s3"])
def test_a_worker_is_killed_while_it_decodes_and_while_it_uploads(
    site: Site, swift: Swift, figures: list[str]
) -> None:
    bucket = site.environ["S3_BUCKET"]
    with running(site.worker(**HASTY)) as worker:
        decoded = site.submit("[big image 30]")
        until(worker.process.children, "an image is decoded")
        worker.kill_alone()
        worker.start()
        uploaded = site.submit("[big image 40]", n=2)
        until(lambda: swift.unfinished_parts(bucket), "a part of an image is uploaded")
        with swift.hanging():
            worker.kill_alone()
        worker.start()

        assert_all_done_once(site, {decoded: 1, uploaded: 2})
    parts = swift.unfinished_parts(bucket)
    figures.append(f"killed while uploading: {parts} parts of unfinished uploads are left")


@pytest.mark.parametrize("place", ["postgresql-s3"])
def test_postgresql_restarts_while_a_worker_has_its_hands_full(
    site: Site, postgres: Postgres
) -> None:
    with running(site.worker(**FEW)) as worker:
        tasks = fill_hands(site, worker)
        postgres.restart()
        postgres.restart(immediate=True)

        assert_all_done_once(site, tasks)


@pytest.mark.parametrize("place", ["postgresql-s3"])
def test_a_web_process_is_killed_when_a_file_is_stored_and_its_task_is_not(site: Site) -> None:
    before, photo = site.objects(), site.client.call("GET", site.sandbox.photo).body
    engine = create_engine(site.environ["DATABASE_URL"])
    purge = [sys.executable, "-m", "app", "purge"]
    with ThreadPoolExecutor(1) as pool:
        with engine.begin() as connection:
            connection.execute(text("LOCK TABLE tasks IN SHARE MODE"))
            sent = pool.submit(site.client.upload, [("image", photo)], path="/v1/images/edits")
            until(lambda: site.objects() - before, "the file is in storage")
            site.front.kill()
        assert isinstance(sent.exception(), urllib3.exceptions.HTTPError)
    site.front.start()
    (left,) = site.objects() - before
    with engine.begin() as connection:
        aged = text(
            "UPDATE placements SET noted_at = noted_at - interval '25 hours' WHERE key = :k"
        )
        assert connection.execute(aged, {"k": left}).rowcount == 1
    subprocess.run(purge, env=site.environ, check=True)  # noqa: S603 - our own program
    assert site.objects() == before
    engine.dispose()


def fill_hands(site: Site, worker: Part) -> Mapping[str, int]:
    """Tasks that the worker is in the middle of, each at another point; how many images each has."""
    downloading = site.submit("[slow image 12]")
    hung_up = site.submit("[hang up after] [late 12]")
    between = site.submit("[slow image 3]", n=5)
    until(lambda: site.sandbox.submissions(hung_up), "the provider has hung up")
    for task_id in (downloading, between):
        site.reaches(task_id, "received")
    # The requests have left, the answers are not there, and the limit is used up.
    asked = [site.submit("[slow answer 12] [late 12]") for _ in range(3)]
    until(lambda: all(map(site.sandbox.submissions, asked)), "the provider has the requests")
    waiting = site.submit()
    until(lambda: "image_stored" in events_of(site.task(between)), "one of the images is stored")
    now = {task_id: site.task(task_id) for task_id in (*asked, downloading, between, waiting)}
    assert {events_of(now[task_id])[-1] for task_id in asked} == {"submitting"}
    assert now[downloading]["status"] == "received"
    assert "pending" in {image["status"] for image in now[between]["images"]}
    assert events_of(now[waiting]) == ["created"]
    assert site.sandbox.port in worker.peers()
    return {**dict.fromkeys((*asked, downloading, hung_up, waiting), 1), between: 5}


def pause_unlocked(site: Site, worker: Part) -> None:
    """Stop the worker where it holds no lock: SQLite has one for all, and nobody could take over."""

    def paused() -> bool:
        worker.pause()
        if not site.sqlite or lock_is_free(site):
            return True
        worker.resume()
        return False

    until(paused, "stopped without the lock")


def lock_is_free(site: Site) -> bool:
    """Whether somebody can write into the SQLite file."""
    path = make_url(site.environ["DATABASE_URL"]).database or ""
    with closing(sqlite3.connect(path, timeout=0.2)) as connection:
        try:
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            return False
    return True


def lost_jobs(worker: Part, kind: str) -> int:
    """How many jobs of that kind the worker has found not to be its own any more."""
    return sum(entry["event"] == "job lost" and entry["kind"] == kind for entry in worker.logged())

"""Several workers, several web processes: limits hold over all of them, and they end gracefully."""

import statistics
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime

import psutil
import pytest

from tests.acceptance.conftest import Logs
from tests.acceptance.sites import (
    HASTY,
    Resources,
    Site,
    assert_all_done_once,
    assert_done_once,
    assert_nothing_else,
    events_of,
    installed,
)
from tests.acceptance.waiting import at_once, until
from tests.servers.service import Sandbox, all_running, running, start_all

# After so long a waiting request looks by itself, on PostgreSQL.
POLL_SECONDS = 5.0


def test_so_many_submissions_at_once_over_all_workers(
    both: list[Site], resources: Resources
) -> None:
    options = ["--delay", "0.1", "--slow-answer", "0.5"]
    sandboxes = [Sandbox(options, resources.new_folder("sandbox")) for _ in both]
    slow = [replace(site, sandbox=sandbox) for site, sandbox in zip(both, sandboxes, strict=True)]
    workers = [
        site.worker(
            PROVIDER_CONCURRENCY="2",
            ACEDATA_BASE_URL=site.sandbox.url,
            ALLOW_PRIVATE_HOSTS=f"127.0.0.1:{site.sandbox.port}",
        )
        for site in slow
        for _ in range(2)
    ]
    with all_running([*sandboxes, *workers]):
        tasks = [{site.submit(): 1 for _ in range(6)} for site in slow]
        at_once(assert_all_done_once, slow, tasks)

        assert [site.sandbox.state()["most_submissions_at_once"] for site in slow] == [2, 2]


@pytest.mark.parametrize("place", ["sqlite-local"])
def test_slow_image_hosts_do_not_hold_up_what_else_there_is_to_do(site: Site) -> None:
    with running(site.worker(RECONCILE_AFTER="1", WORKER_CONCURRENCY="2")):
        slow = [site.submit("[slow image 20]") for _ in range(2)]
        until(lambda: all(site.task(task_id)["images"] for task_id in slow), "images are fetched")
        silent = site.submit("[never]")
        site.reaches(silent, "received")

        assert {site.task(task_id)["status"] for task_id in slow} == {"received"}
        assert_all_done_once(site, dict.fromkeys((silent, *slow), 1))


def test_workers_that_are_asked_to_end_finish_what_they_do(both: list[Site]) -> None:
    with all_running([site.worker(**HASTY, PROVIDER_CONCURRENCY="1") for site in both]) as workers:
        in_hand = at_once(give_work, both)
        assert at_once(lambda worker: worker.stop(), workers) == [0, 0]
        for site, worker, (downloading, asked, waiting) in zip(both, workers, in_hand, strict=True):
            assert worker.logged()[-1]["event"] == "worker stopped"
            assert_done_once(site, downloading)
            assert events_of(site.task(asked)) == ["created", "submitting", "submitted"]
            assert events_of(site.task(waiting)) == ["created"]

        start_all(workers)
        for site, (_, asked, waiting) in zip(both, in_hand, strict=True):
            for task_id in (asked, waiting):
                assert "uncertain" not in events_of(assert_done_once(site, task_id))


def give_work(site: Site) -> tuple[str, str, str]:
    """Three tasks: the image of one is being fetched, one is being submitted, one waits for that."""
    downloading = site.submit("[slow image 3]")
    site.reaches(downloading, "received")
    asked = site.submit("[slow answer 5] [late 15]")
    until(lambda: site.sandbox.submissions(asked), "a submission is under way")
    return downloading, asked, site.submit()


def test_the_embedded_process_finishes_what_it_does(resources: Resources) -> None:
    with installed(resources, "sqlite", "local", embedded=True) as site:
        downloading = site.submit("[slow image 2]")
        site.reaches(downloading, "received")
        assert site.front.stop() == 0

        stopped = site.front.log
        site.front.start()
        assert_done_once(site, downloading)
        # In the life that was asked to end, not in the next one.
        assert b'"action": "image_stored"' in stopped
        assert b'"action": "image_stored"' not in site.front.log


def test_several_web_processes_answer_as_one(
    resources: Resources, logs: Logs, figures: list[str]
) -> None:
    logs.allowed.append("was sent SIGKILL")
    settings = {"WEB_CONCURRENCY": "3"}
    with installed(resources, "postgresql", "s3", working=True, settings=settings) as site:
        assert len(site.front.process.children()) == 3
        lags = answer_lags(site, 6)
        figures.append(
            f"3 web processes: who waits for a result has it {statistics.median(lags):.2f} s (p50), "
            f"{max(lags):.2f} s (maximum) after the end"
        )
        assert statistics.median(lags) < POLL_SECONDS / 2
        dying = site.front.process.children()[:2]
        for child in dying:
            child.kill()
        # Until then one of them could hold the connection on which we submit.
        psutil.wait_procs(dying)
        tasks = [site.submit("[concurrent 10]") for _ in range(5)]
        until(lambda: len(site.front.process.children()) == 3, "those that died are replaced")
        for task_id in tasks:
            assert_done_once(site, task_id)
        assert_nothing_else(site)


@pytest.mark.parametrize(
    "place", ["sqlite-local", "sqlite-local-embedded", "postgresql-s3-embedded"]
)
def test_who_waits_for_a_result_has_it_soon(
    working_site: Site, place: str, figures: list[str]
) -> None:
    lags = answer_lags(working_site, 3)

    figures.append(
        f"{place}: who waits for a result has it {statistics.median(lags):.2f} s (p50) after the end"
    )
    assert statistics.median(lags) < POLL_SECONDS / 2


def answer_lags(site: Site, count: int) -> Sequence[float]:
    """How long after their ends so many tasks were answered for which callers waited."""

    def lag(_: int) -> float:
        given = {"image": site.sandbox.photo, "prompt": "mirror"}
        answer = site.client.call("POST", "/v1/images/edits", json=given)
        now = datetime.now(UTC)
        assert answer.status == 200, answer.body
        task = assert_done_once(site, answer.json["task_id"])
        assert answer.json["data"] == [{"url": task["images"][0]["url"]}]
        return (now - datetime.fromisoformat(task["finished_at"])).total_seconds()

    return at_once(lag, range(count))

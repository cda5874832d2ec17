"""Storage or database are down, refuse or are full: results wait, and no image fails for it."""

import os
import resource
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import urllib3

from tests.acceptance.sites import (
    HASTY,
    Json,
    Resources,
    Site,
    assert_done_once,
    assert_nothing_else,
    installed,
)
from tests.acceptance.waiting import until
from tests.sandbox.client import Answer, Client
from tests.servers.postgres import Postgres
from tests.servers.service import Part, Sandbox, running
from tests.servers.swift import STRANGER_ACCESS_KEY, STRANGER_SECRET_KEY, Swift

# How long a link of the provider works: longer than it takes to follow it once.
IMAGE_TTL = 7
DISK_BYTES = 8 * 2**20


def test_storage_refuses_and_then_is_down_until_the_links_have_expired(
    resources: Resources, swift: Swift
) -> None:
    sandbox = Sandbox(
        ["--delay", "0.1", "--image-ttl", str(IMAGE_TTL)], resources.new_folder("short-links")
    )
    stranger = {
        "AWS_ACCESS_KEY_ID": STRANGER_ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": STRANGER_SECRET_KEY,
    }
    with (
        running(sandbox),
        installed(resources, "postgresql", "s3", sandbox=sandbox) as site,
        running(site.worker(**HASTY, **stranger)) as refused,
    ):
        tasks = {site.submit(n=2): 2, site.submit("[big image 12]"): 1, site.submit("[base64]"): 1}
        until(lambda: troubles(refused) >= sum(tasks.values()), "no image can be stored")
        assert "AccessDenied" in refused.log.decode()
        assert_waiting(site, tasks)
        assert site.objects() == set()
        refused.stop()

        with running(site.worker(**HASTY)) as worker:
            with swift.down():
                until(lambda: troubles(worker), "storage is down")
                until(lambda: expired(site, tasks), "the provider's links have expired")
                assert_waiting(site, tasks)
            for task_id, images in tasks.items():
                assert_done_once(site, task_id, images)
            assert_nothing_else(site)


@pytest.mark.soak
@pytest.mark.parametrize("place", ["postgresql-s3"])
def test_storage_hangs_for_longer_than_every_time_out(site: Site, swift: Swift) -> None:
    with running(site.worker(**HASTY)) as worker:
        with swift.hanging():
            task_id = site.submit(n=2)
            until(lambda: troubles(worker) == 2, "both images were given up for now", 120)
            assert_waiting(site, {task_id: 2})

        assert_done_once(site, task_id, images=2)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small disk")
def test_everything_is_on_one_disk_and_that_is_full(resources: Resources, tmp_path: Path) -> None:
    with small_disk(tmp_path) as disk:
        settings = {
            **HASTY,
            "DATABASE_URL": f"sqlite:///{disk}/postback.db",
            "LOCAL_STORAGE_DIR": str(disk / "storage"),
        }
        with installed(resources, "sqlite", "local", embedded=True, settings=settings) as site:
            arriving = site.submit("[slow image 2]")
            late = site.submit("[late 2]")
            site.reaches(arriving, "received")
            site.reaches(late, "submitted")
            fill(disk)
            until(lambda: site.sandbox.state()["callbacks"].get(late), "the callback was answered")
            until(lambda: b"disk is full" in site.front.log, "the database is full")
            answer = submission(site)
            assert answer.status in {200, 503}
            assert site.client.call("GET", "/healthz").status == 200
            (disk / "filler").unlink()

            answers = site.sandbox.state()["callbacks"][late]["answers"]
            assert answers in ([200], [503])
            tasks = {arriving, late} | ({answer.json["task_id"]} if answer.status == 200 else set())
            for task_id in tasks:
                assert_done_once(site, task_id)
            assert {task["task_id"] for task in site.tasks()} == tasks


@pytest.mark.parametrize("place", ["postgresql-local"])
def test_a_file_cannot_grow(site: Site) -> None:
    with running(site.worker(**HASTY)) as worker:
        limit_files(worker, 100_000)
        task_id = site.submit(n=2)
        until(lambda: troubles(worker) >= 2, "no image can be stored")
        assert_waiting(site, {task_id: 2})
        limit_files(worker, None)

        assert_done_once(site, task_id, images=2)


@pytest.mark.parametrize("place", ["postgresql-s3"])
def test_without_the_database_nothing_is_claimed(site: Site, postgres: Postgres) -> None:
    with running(site.worker(**HASTY)):
        known = {task["task_id"] for task in site.tasks()}
        asked = site.submit("[slow answer 2] [late 3]")
        late = site.submit("[late 2]")
        until(lambda: site.sandbox.submissions(asked), "a submission is under way")
        site.reaches(late, "submitted")
        with postgres.down():
            for answer in (
                submission(site),
                site.client.call("GET", f"/v1/tasks/{late}"),
                site.client.call("GET", "/v1/tasks"),
            ):
                assert answer.status == 503
                assert answer.json["error"]["code"] == "unavailable"
                assert int(answer.headers["Retry-After"]) > 0
            assert site.client.call("GET", "/healthz").status == 200
            ready = site.client.call("GET", "/readyz")
            assert (ready.status, ready.json["storage"]) == (503, "ok")
            until(lambda: site.sandbox.state()["callbacks"].get(late), "the callback was answered")
            assert site.sandbox.state()["callbacks"][late]["answers"] == [503]

        until(lambda: site.client.call("GET", "/readyz").status == 200, "all is ready")
        for task_id in (asked, late):
            assert_done_once(site, task_id)
        assert {task["task_id"] for task in site.tasks()} == known | {asked, late}


def submission(site: Site) -> Answer:
    """How a submission is answered."""
    given = {"image": site.sandbox.photo, "prompt": "mirror", "async": True}
    return site.client.call("POST", "/v1/images/edits", json=given)


def troubles(worker: Part) -> int:
    """How many images the worker could not store, and will try again."""
    return len(
        {
            entry["job"]
            for entry in worker.logged()
            if entry["event"] == "job will be tried again" and "StorageError" in entry["error"]
        }
    )


def assert_waiting(site: Site, tasks: dict[str, int]) -> None:
    """Every task has its result, and all of its images wait."""
    for task_id, images in tasks.items():
        task = site.task(task_id)
        assert task["status"] == "received"
        assert task["error"] is None
        assert [image["status"] for image in task["images"]] == ["pending"] * images
        (url, *_) = [image["url"] for image in task["images"]]
        assert urllib3.request("GET", url).status == 425


def expired(site: Site, tasks: dict[str, int]) -> bool:
    """Whether none of the provider's links to the images works any more."""
    client = Client(site.sandbox.url)
    known: list[Json] = [client.look_up(action="retrieve", trace_id=task_id) for task_id in tasks]
    links = [item["url"] for task in known for item in task["response"]["data"] if "url" in item]
    statuses = {client.call("GET", link).status for link in links}
    client.pool.clear()
    return statuses == {403}


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """A disk of its own that has room for little."""
    disk = folder / "disk"
    disk.mkdir()
    options = ["-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(disk)]
    subprocess.run(["mount", *options], check=True)  # noqa: S603, S607 - root's own tool
    try:
        yield disk
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)  # noqa: S603, S607


def fill(disk: Path) -> None:
    """Leave no room on the disk."""
    with (disk / "filler").open("wb", buffering=0) as filler:
        try:
            while filler.write(bytes(4096)):
                pass
        except OSError:
            return


def limit_files(part: Part, size: int | None) -> None:
    """Let no file of the part grow above `size` bytes: its next write fails."""
    hard = resource.prlimit(part.process.pid, resource.RLIMIT_FSIZE)[1]
    resource.prlimit(part.process.pid, resource.RLIMIT_FSIZE, (size or hard, hard))

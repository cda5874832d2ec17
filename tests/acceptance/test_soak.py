"""Edits of many kinds while parts are killed, stopped and cut off, as the lot has it."""

import os
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence

import pytest
from urllib3.exceptions import HTTPError

from app.models import FINAL
from tests.acceptance.conftest import Logs
from tests.acceptance.sites import (
    HASTY,
    Json,
    Resources,
    Site,
    assert_done_once,
    assert_nothing_else,
    events_of,
    installed,
)
from tests.acceptance.waiting import until
from tests.servers.service import Part, all_running, start_all

# Longer than it takes until a lost request is given up.
SETTLE_SECONDS = 240.0
LEASE_SECONDS = float(HASTY["LEASE_SECONDS"])
# What is asked for, and how many images of it.
EDITS = [
    ("mirror", 1),
    ("mirror", 4),
    ("mirror [slow image 2]", 2),
    ("mirror [big image 12]", 1),
    ("mirror [base64]", 1),
    ("mirror [huge 8]", 1),
    ("mirror [concurrent 8]", 1),
    ("mirror [duplicate 3]", 1),
    ("mirror [early]", 1),
    ("mirror [late 3]", 1),
    ("mirror [never]", 1),
    ("mirror [forged]", 1),
    ("mirror [wrong id]", 1),
    ("mirror [truncated json]", 1),
    ("mirror [success then failure]", 1),
    ("mirror [slow answer 3]", 1),
    ("mirror [slow answer 3] [late 4]", 1),
    ("mirror [hang up after]", 1),
    ("mirror [504]", 1),
    ("mirror [429 1]", 1),
    ("mirror [500 1]", 1),
    ("mirror [image 503 1]", 1),
]


def test_a_short_storm(resources: Resources, logs: Logs, figures: list[str]) -> None:
    weather(resources, logs, figures, place="postgresql-s3", rounds=4, seed=1486)


@pytest.mark.soak
@pytest.mark.parametrize("place", ["sqlite-local", "postgresql-s3"])
def test_a_long_storm(place: str, resources: Resources, logs: Logs, figures: list[str]) -> None:
    rounds = int(os.environ.get("SOAK_ROUNDS", "60"))
    seed = int(os.environ.get("SOAK_SEED", str(time.time_ns() % 1_000_000)))
    weather(resources, logs, figures, place=place, rounds=rounds, seed=seed)


def weather(
    resources: Resources, logs: Logs, figures: list[str], *, place: str, rounds: int, seed: int
) -> None:
    """Let a storm go over a site of its own, and look at what is left."""
    logs.allowed.append("was sent SIGKILL")
    print(f"seed {seed}")  # noqa: T201 - shown when it fails
    with (
        installed(resources, *place.split("-")) as site,
        all_running([site.worker(**HASTY) for _ in range(2)]) as workers,
    ):
        storm = Storm(resources, site, workers, random.Random(seed))
        for _ in range(rounds):
            storm.rage()
        until(lambda: all_final(site), "every task ends", SETTLE_SECONDS)
        ends = Counter(judge(site, task["task_id"]) for task in site.tasks())
        assert_nothing_else(site)
    figures.append(f"storm over {place}, seed {seed}: {dict(storm.faults)}; {dict(ends)}")


class Storm:
    """What goes wrong, round by round, and how often each."""

    def __init__(
        self, resources: Resources, site: Site, workers: Sequence[Part], lot: random.Random
    ) -> None:
        self.faults: Counter[str] = Counter()
        self._resources = resources
        self._site = site
        self._workers = workers
        self._lot = lot

    def rage(self) -> None:
        """Some edits are submitted, and while they are under way something happens."""
        for prompt, images in self._lot.choices(EDITS, k=self._lot.randint(2, 5)):
            self._submit(prompt, images)
        time.sleep(self._lot.uniform(0, 1.5))
        fault = self._lot.choice(self._possible())
        self.faults[fault.__name__.strip("_")] += 1
        fault()

    def _possible(self) -> list[Callable[[], None]]:
        always = [self._kill_worker, self._kill_web, self._kill_both_workers]
        if self._site.sqlite:
            return always
        return [
            *always,
            # Who is stopped with SQLite's one lock in its hand stops everybody.
            self._stop_worker,
            self._kill_web_process,
            self._restart_postgres,
            self._crash_postgres,
            self._hang_storage,
            self._stop_storage,
        ]

    def _submit(self, prompt: str, images: int) -> None:
        def accepted() -> bool:
            try:
                self._site.submit(prompt, n=images)
            except HTTPError:
                # The process died that was to answer: the task may be there all the same.
                return False
            return True

        until(accepted, "a submission is accepted")

    def _kill_worker(self) -> None:
        worker = self._lot.choice(self._workers)
        worker.kill_alone()
        worker.start()

    def _kill_both_workers(self) -> None:
        for worker in self._workers:
            worker.kill()
        start_all(self._workers)

    def _stop_worker(self) -> None:
        worker = self._lot.choice(self._workers)
        worker.pause()
        time.sleep(LEASE_SECONDS * self._lot.uniform(1, 2))
        worker.resume()

    def _kill_web(self) -> None:
        self._site.front.kill()
        self._site.front.start()

    def _kill_web_process(self) -> None:
        self._lot.choice(self._site.front.process.children()).kill()

    def _restart_postgres(self) -> None:
        self._resources.postgres.restart()

    def _crash_postgres(self) -> None:
        self._resources.postgres.restart(immediate=True)

    def _hang_storage(self) -> None:
        with self._resources.swift.hanging():
            time.sleep(self._lot.uniform(0.5, 2))

    def _stop_storage(self) -> None:
        with self._resources.swift.down():
            time.sleep(self._lot.uniform(0, 1))
            if self._lot.random() < 0.5:
                self._kill_worker()


def all_final(site: Site) -> bool:
    """Whether nothing is left to do."""
    return all(task["status"] in FINAL for task in site.tasks())


def judge(site: Site, task_id: str) -> str:
    """How the task has ended; only two ends are right."""
    task = site.task(task_id)
    if task["status"] == "succeeded":
        assert_done_once(site, task_id, images=task["request"]["n"])
        return "succeeded"
    assert_never_left(site, task)
    return "never left"


def assert_never_left(site: Site, task: Json) -> None:
    """The task failed because nobody can know that its request never left; it was not paid for."""
    assert task["error"], task
    assert task["error"]["code"] == "unknown_outcome", task
    assert site.sandbox.submissions(task["task_id"]) == 0
    assert [event for event in events_of(task) if event != "refused"][-3:] == [
        "submitting",
        "uncertain",
        "failed",
    ]

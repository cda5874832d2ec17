"""Everything goes wrong at once, and every task ends as it must: paid for once, stored once."""

import io
import os
import random
import socket
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import urllib3
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import create_engine, text

from tests.acceptance import mischief
from tests.acceptance.conftest import Logs
from tests.acceptance.mischief import LOST, Edit
from tests.acceptance.sites import (
    HASTY,
    Json,
    Resources,
    Site,
    events_of,
    id_in,
    installed,
    keys_of,
)
from tests.acceptance.waiting import at_once, until
from tests.factories import png
from tests.servers.service import Part, all_running

# `make chaos` has more.
TASKS = 100
CALLERS = 4
# So many are not done yet when the worker is killed for the last time.
LAST_ONES = 0.3
SETTLE_SECONDS = 300.0
# Few calls at once: a call to AGCloud that a killed worker held is lost.
SETTINGS = {**HASTY, "PROVIDER_CONCURRENCY": "6"}
# Why a task is uncertain whose worker was killed.
KILLED = {
    "acedata": "the worker went silent while sending",
    "agcloud": "the worker that held the call went silent",
}


def test_every_task_ends_as_it_must(
    resources: Resources, trap: socket.socket, logs: Logs, figures: list[str]
) -> None:
    seed = int(os.environ.get("CHAOS_SEED", "2026"))
    edits = mischief.edits(random.Random(seed), int(os.environ.get("CHAOS_TASKS", TASKS)))
    logs.allowed.append("was sent SIGKILL")
    print(f"seed {seed}")  # noqa: T201 - shown when it fails
    began = time.monotonic()
    with (
        installed(resources, "postgresql", "s3", settings=SETTINGS) as site,
        all_running([site.worker() for _ in range(2)]) as (_, unlucky),
        ThreadPoolExecutor(CALLERS) as callers,
    ):
        submitted = [callers.submit(submit, site, edit) for edit in edits]

        def enough() -> bool:
            few = open_tasks(site) <= len(edits) * LAST_ONES
            return few and all(future.done() for future in submitted)

        kills = kill_again_and_again(unlucky, random.Random(seed), enough)
        calm = time.monotonic()
        until(lambda: not open_tasks(site), "every task ends", SETTLE_SECONDS + len(edits))
        settled = time.monotonic()
        tasks = [future.result() for future in submitted]
        ends = judge(site, dict(zip(tasks, edits, strict=True)))
    # Nobody was called whom a redirect named.
    with pytest.raises(BlockingIOError):
        trap.accept()
    shown = ", ".join(f"{count} {end}" for end, count in sorted(ends.items()))
    figures.append(
        f"chaos with {len(edits)} tasks, seed {seed}: {kills} kills in {calm - began:.0f} s, "
        f"all ended after {settled - began:.0f} s, {shown}"
    )


def submit(site: Site, edit: Edit) -> str:
    """Submit an edit as it wants to be submitted; our task id."""
    fields = {"provider": edit.provider, "model": "gpt-image-2", **edit.fields}
    if not edit.files:
        return site.submit(edit.prompt, n=edit.n, **fields)
    name = "image" if edit.files == 1 else "image[]"
    files = [(name, png(64, 64, colour)) for colour in ("red", "green", "blue")[: edit.files]]
    if edit.mask:
        files.append(("mask", mask()))
    form = {"n": str(edit.n), "async": "true", **{name: str(fields[name]) for name in fields}}
    answer = site.client.upload(files, edit.prompt, "/v1/images/edits", **form)
    assert answer.status == 200, answer.body
    return str(answer.json["task_id"])


def mask() -> bytes:
    """A PNG file with an alpha channel, as large as the images."""
    file = io.BytesIO()
    Image.new("RGBA", (64, 64)).save(file, "PNG")
    return file.getvalue()


def kill_again_and_again(worker: Part, lot: random.Random, enough: Callable[[], bool]) -> int:
    """Kill and restart the worker until it is enough; how often that was."""
    kills = 0
    while not enough():
        time.sleep(lot.uniform(0.5, 3))
        worker.kill_alone()
        kills += 1
        worker.start()
    return kills


def open_tasks(site: Site) -> float:
    """How many tasks have not ended."""
    text = urllib3.request("GET", f"{site.client.url}/metrics").data.decode()
    return sum(
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == "postback_tasks_open"
    )


def judge(site: Site, edits: dict[str, Edit]) -> Counter[str]:
    """How the tasks have ended, each as it must; nothing else was made, paid for or stored."""
    state = site.sandbox.state()
    made: dict[str, Counter[str]] = {task_id: Counter() for task_id in edits}
    for image in state["images"]:
        if image["submission"] in made:
            made[image["submission"]][image["sha256"]] += 1
    tasks = at_once(site.task, edits)
    problems = [
        f"{problem}: {edit}, {task}"
        for task, edit in zip(tasks, edits.values(), strict=True)
        if (problem := problem_of(task, edit, state["submissions"], made[task["task_id"]]))
    ]
    assert not problems, "\n".join(problems)
    assert {task["task_id"] for task in site.tasks()} == set(edits)
    expected = set().union(*(keys_of(task) | others_of(task) for task in tasks))
    objects = site.objects()
    assert objects >= expected
    # A worker that was killed may have put one there; that it did is known, and it goes a day later.
    assert objects - expected <= noted(site)
    return Counter(str((task["error"] or {}).get("code", task["status"])) for task in tasks)


def noted(site: Site) -> set[str]:
    """The keys of what is in storage, or may be, and belongs to nothing."""
    engine = create_engine(site.environ["DATABASE_URL"])
    with engine.connect() as connection:
        keys = set(connection.execute(text("SELECT key FROM placements")).scalars())
    engine.dispose()
    return keys


def others_of(task: Json) -> set[str]:
    """The keys under which what was uploaded with a task, and its partial images, are in storage."""
    folder, partials = task["task_id"], task["partial_images"]
    inputs = [each for each in task["inputs"] if each["content_type"]]
    return {f"inputs/{folder}/{each['role']}-{each['index']}.png" for each in inputs} | {
        f"partials/{folder}/{each['index']}-{id_in(each['url'])}.png" for each in partials
    }


def problem_of(
    task: Json, edit: Edit, submissions: dict[str, int], made: Counter[str]
) -> str | None:
    """What is wrong with how the task has ended."""
    paid = submissions.get(task["task_id"], 0)
    stored = Counter(image["sha256"] for image in task["images"] if image["status"] == "stored")
    error = (task["error"] or {}).get("code")
    events = events_of(task)
    if paid > 1:
        return f"paid for {paid} times"
    if error == LOST:
        return problem_of_lost(task, edit, paid)
    if (error or stored.total()) != edit.ending:
        return f"ended with {error or stored.total()}"
    if events.count("submitting") != 1 + events.count("refused"):
        return "sent again"
    if events.count("image_stored") != stored.total() or not stored <= made:
        return "not stored once"
    if not error and "[two successes]" not in edit.prompt and stored != made:
        return f"{made.total()} images were made"
    return None


def problem_of_lost(task: Json, edit: Edit, paid: int) -> str | None:
    """Nobody can know what became of the task: is that so?"""
    reasons = [
        entry["detail"]["reason"] for entry in task["timeline"] if entry["event"] == "uncertain"
    ]
    if edit.ending != LOST and reasons != [KILLED[edit.provider]]:
        return "lost without a reason"
    if paid and edit.provider == "acedata":
        return "lost although the provider could have told"
    return "images of a lost task" if task["images"] else None

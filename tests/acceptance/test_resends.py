"""Whoever sends a submission again, for whatever reason, pays once."""

import json
import socket
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any
from uuid import uuid4

import urllib3

from tests.acceptance.sites import Json, Site
from tests.acceptance.waiting import until
from tests.servers.service import Part, running

CALLERS = 50
FEW_CALLERS = 10
PATIENCE = 60.0


def submission(site: Site, prompt: str, **fields: Any) -> Json:
    return {"image": site.sandbox.photo, "prompt": prompt, **fields}


def send(site: Site, body: Json, key: str | None = None) -> tuple[int, Json]:
    """Submit over a connection of its own; the status and the answer."""
    # Not the client's own pool, which has one connection.
    answer = urllib3.request(
        "POST",
        f"{site.environ['PUBLIC_URL']}/v1/images/edits",
        json=body,
        headers=authorization(site) | ({"Idempotency-Key": key} if key else {}),
        retries=False,
        timeout=PATIENCE,
    )
    return answer.status, answer.json()


def authorization(site: Site) -> dict[str, str]:
    return {"Authorization": f"Bearer {site.client.token}"}


def race(site: Site, body: Json, key: str | None = None, *, callers: int = CALLERS) -> Counter[str]:
    """The tasks that answered so many equal calls at once, and how often each did."""
    with ThreadPoolExecutor(callers) as pool:
        answers = list(pool.map(lambda _: send(site, body, key), range(callers)))
    assert {status for status, _ in answers} == {200}, answers
    return Counter(answer["task_id"] for _, answer in answers)


def made_for(site: Site, prompt: str) -> list[str]:
    """The tasks that there are for a prompt, as the database has them."""
    return [task["task_id"] for task in site.tasks() if task["prompt"] == prompt]


def paid_once(site: Site, prompt: str) -> str:
    """There is one task for a prompt, and it reached the provider once."""
    (task_id,) = made_for(site, prompt)
    site.ends(task_id)
    assert site.sandbox.submissions(task_id) == 1
    return task_id


def new_prompt(words: str) -> str:
    return f"{words} {uuid4().hex}"


def test_racing_calls_that_wait_are_one_edit(working_site: Site) -> None:
    """Over all web processes; with a key, and without one."""
    site = working_site
    for key in (None, uuid4().hex):
        prompt = new_prompt("sepia [late 4]")
        tasks = race(site, submission(site, prompt), key)
        assert tasks == {paid_once(site, prompt): CALLERS}


def test_racing_calls_that_do_not_wait_are_one_edit_under_a_key_and_else_their_own(
    working_site: Site,
) -> None:
    site = working_site
    prompt = new_prompt("sepia")
    tasks = race(site, submission(site, prompt, **{"async": True}), uuid4().hex)
    assert tasks == {paid_once(site, prompt): CALLERS}

    # Each of them was answered whole.
    prompt = new_prompt("sepia")
    tasks = race(site, submission(site, prompt, **{"async": True}), callers=FEW_CALLERS)
    assert len(tasks) == len(made_for(site, prompt)) == FEW_CALLERS


def begin(site: Site, body: Json) -> socket.socket:
    """A connection on which a submission was sent, and nothing was read."""
    data = json.dumps(body).encode()
    host, _, port = site.environ["PUBLIC_URL"].removeprefix("http://").partition(":")
    connection = socket.create_connection((host, int(port)), timeout=PATIENCE)
    lines = [
        "POST /v1/images/edits HTTP/1.1",
        f"Host: {host}",
        *(f"{name}: {value}" for name, value in authorization(site).items()),
        "Content-Type: application/json",
        f"Content-Length: {len(data)}",
    ]
    connection.sendall("\r\n".join([*lines, "", ""]).encode() + data)
    return connection


def test_who_hangs_up_and_asks_again_gets_the_same_edit(working_site: Site) -> None:
    site = working_site
    prompt = new_prompt("sepia [late 6]")
    body = submission(site, prompt)
    for _ in range(3):
        with begin(site, body):
            until(lambda: made_for(site, prompt), "the submission is there")
    until(lambda: statuses(site.front).count(499) >= 1, "who hung up is let go")

    status, answer = send(site, body)
    assert (status, answer["task_id"]) == (200, paid_once(site, prompt))
    # That answer was whole: the next is another edit.
    assert send(site, body)[1]["task_id"] != answer["task_id"]


def test_who_waits_while_the_server_restarts_is_sent_elsewhere(site: Site) -> None:
    """Not held until the process is killed, and answered by the next one."""
    prompt = new_prompt("sepia [late 5]")
    body = submission(site, prompt)
    # The callback may come while nobody is there to take it.
    with ThreadPoolExecutor(1) as pool, running(site.worker(RECONCILE_AFTER="2")):
        waiting = pool.submit(send, site, body)
        until(lambda: made_for(site, prompt), "the submission is there")
        site.front.stop()
        status, answer = waiting.result()
        assert (status, answer["error"]["code"]) == (503, "unavailable")

        site.front.start()
        assert send(site, body)[1]["task_id"] == paid_once(site, prompt)


def statuses(part: Part) -> list[int]:
    return [entry["status"] for entry in part.logged() if entry.get("action") == "request"]


def answered(answers: Sequence[Future[str]], count: int) -> bool:
    """Whether so many of them are there."""
    return sum(each.done() for each in answers) >= count


def test_web_processes_are_killed_while_they_answer(site: Site, figures: list[str]) -> None:
    """Callers send again until they have got an answer whole, without a key: one task for each."""
    prompts = [new_prompt("sepia") for _ in range(16)]
    sent: Counter[str] = Counter()

    def insist(prompt: str) -> str:
        body = submission(site, prompt, **{"async": True})

        def got() -> str | None:
            sent[prompt] += 1
            try:
                status, answer = send(site, body)
            except (urllib3.exceptions.HTTPError, ValueError):
                return None
            return answer["task_id"] if status == 200 else None

        return str(until(got, "an answer"))

    with ThreadPoolExecutor(8) as pool, running(site.worker(RECONCILE_AFTER="2")):
        answers = [pool.submit(insist, prompt) for prompt in prompts]
        until(partial(answered, answers, 6), "some answers")
        site.front.kill()
        site.front.start()
        task_ids = [each.result() for each in answers]
        # Callbacks may have been lost, too.
        assert [paid_once(site, prompt) for prompt in prompts] == task_ids
    again = sum(sent.values()) - len(prompts)
    figures.append(f"{site.folder.name}: {len(prompts)} edits, {again} sent again, 0 paid twice")

"""Calls to AGCloud that workers hold: killed, stopped and cut off, paid for once, told as it was."""

import time
from collections.abc import Iterator

import pytest
from openai import OpenAI

from tests.acceptance.sites import HASTY, Json, Site, assert_done_once, events_of
from tests.acceptance.waiting import at_once, until
from tests.servers.postgres import Postgres
from tests.servers.service import all_running, running

AGCLOUD = {"provider": "agcloud", "model": "gpt-image-2"}


def held(site: Site, prompt: str, **fields: object) -> str:
    """A task whose call has reached the provider."""
    task_id = site.submit(prompt, **AGCLOUD, **fields)
    until(lambda: site.sandbox.submissions(task_id), "the provider has the request")
    return task_id


def fails(site: Site, task_id: str, code: str) -> Json:
    task = site.ends(task_id)
    assert (task["status"], task["error"]["code"]) == ("failed", code), task
    assert site.sandbox.submissions(task_id) == 1
    return task


def test_a_killed_worker_leaves_its_calls_uncertain_and_nobody_sends_them_again(
    both: list[Site],
) -> None:
    at_once(assert_killed_worker_pays_once, both)


def assert_killed_worker_pays_once(site: Site) -> None:
    with running(site.worker(**HASTY)) as worker:
        plain = held(site, "[slow answer 60]")
        streamed = held(site, "[slow answer 60]", stream=True, partial_images=1)
        until(lambda: site.task(streamed)["partial_images"], "a partial image is stored")
        worker.kill_alone()
        worker.start()
        for task_id in (plain, streamed):
            site.reaches(task_id, "uncertain")
        # What has come of it meanwhile stays.
        assert len(fails(site, streamed, "unknown_outcome")["partial_images"]) == 1
        assert "submitted" not in events_of(fails(site, plain, "unknown_outcome"))


def test_a_worker_that_was_stopped_for_too_long_still_brings_what_was_paid_for(
    both: list[Site],
) -> None:
    at_once(assert_stopped_worker_brings_it, both)


def assert_stopped_worker_brings_it(site: Site) -> None:
    with running(site.worker(**HASTY)) as stopped:
        task_id = held(site, "[slow answer 4]")
        stopped.pause()
        with running(site.worker(**HASTY)):
            fails(site, task_id, "unknown_outcome")
            stopped.resume()
            site.reaches(task_id, "succeeded")
            assert_done_once(site, task_id)


@pytest.mark.parametrize("place", ["postgresql-s3"])
def test_streams_that_end_too_early_are_failures(working_site: Site) -> None:
    site = working_site
    fields = {"stream": True, "partial_images": 2}
    cut = held(site, "[cut stream]", **fields)
    broken = held(site, "[broken stream]", **fields)
    error = held(site, "[stream error]", **fields)

    assert len(fails(site, cut, "incomplete_stream")["partial_images"]) == 2
    fails(site, error, "server_error")
    assert "uncertain" in events_of(fails(site, broken, "unknown_outcome"))


@pytest.mark.parametrize("place", ["postgresql-s3"])
def test_postgresql_restarts_while_calls_are_held(site: Site, postgres: Postgres) -> None:
    with running(site.worker(**HASTY)):
        tasks = [
            held(site, "[slow answer 3]"),
            held(site, "[slow answer 3] [huge 2]", stream=True, partial_images=1),
        ]
        postgres.restart(immediate=True)
        postgres.restart()
        for task_id in tasks:
            assert_done_once(site, task_id)


@pytest.mark.parametrize("place", ["postgresql-s3"])
def test_postgresql_is_away_for_longer_than_a_lease_while_calls_are_held(
    site: Site, postgres: Postgres
) -> None:
    with all_running([site.worker(**HASTY), site.worker(**HASTY)]):
        tasks = [
            held(site, "[slow answer 3]"),
            held(site, "[slow answer 8]"),
            held(site, "[slow answer 8]", stream=True, partial_images=1),
        ]
        with postgres.down():
            time.sleep(1.5 * float(HASTY["LEASE_SECONDS"]))
        for task_id in tasks:
            assert_done_once(site, task_id)
            assert "uncertain" not in events_of(site.task(task_id))


@pytest.fixture
def openai(working_site: Site) -> Iterator[OpenAI]:
    environ = working_site.environ
    base_url = f"{environ['PUBLIC_URL']}/v1"
    with OpenAI(base_url=base_url, api_key=working_site.client.token, max_retries=0) as client:
        yield client


@pytest.mark.parametrize("place", ["postgresql-s3"])
def test_the_openai_package_streams_an_edit(working_site: Site, openai: OpenAI) -> None:
    photo = working_site.client.pool.request("GET", working_site.sandbox.photo).data
    stream = openai.images.edit(
        image=photo, prompt="sepia", model="gpt-image-2", stream=True, partial_images=2,
        extra_body={"provider": "agcloud"},
    )  # fmt: skip
    events = list(stream)

    assert [event.type for event in events] == [
        "image_edit.partial_image", "image_edit.partial_image", "image_edit.completed",
    ]  # fmt: skip
    done = events[-1]
    assert done.type == "image_edit.completed"
    assert (done.size, done.output_format, done.usage.output_tokens) == ("451x300", "png", 1200)

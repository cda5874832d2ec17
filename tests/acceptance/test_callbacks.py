"""All that callbacks can be: many, early, late, forged, broken, huge, contradictory, or not there."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from tests.acceptance.conftest import PLACES, Sites
from tests.acceptance.sites import (
    Json,
    Resources,
    Site,
    assert_done_once,
    events_of,
    installed,
    keys_of,
    seconds_between,
)
from tests.acceptance.waiting import until
from tests.servers.service import Sandbox, running

RECONCILE_AFTER = 3.0
HUGE_BYTES = 20_000_000

# What is submitted, all at once, for each place.
EDITS: Mapping[str, Mapping[str, Any]] = {
    "[concurrent 50]": {"n": 2},
    "[duplicate 3]": {},
    "[early]": {},
    "[late 10]": {},
    "[never]": {},
    "[never] [hang up after]": {},
    "[never] [504]": {},
    "[forged]": {},
    # Late: before ours is known any id may be the right one.
    "[wrong id] [late 1]": {},
    "[truncated json]": {},
    "[empty]": {},
    "[gzip]": {},
    "[chunked]": {},
    "[image_url]": {},
    "[base64]": {"n": 2},
    "[huge]": {},
    "[partial 1]": {"n": 3},
    "[forbidden]": {},
    "[success then failure]": {},
    "[failure then success]": {},
    "[two successes]": {"n": 2},
}


@pytest.fixture(scope="module", params=PLACES)
def site(request: pytest.FixtureRequest, sites: Sites) -> Iterator[Site]:
    """A site whose worker soon asks for what does not come."""
    site = sites.at(request.param)
    with running(site.worker(RECONCILE_AFTER=str(RECONCILE_AFTER))):
        yield site


@pytest.fixture(scope="module")
def submitted(site: Site) -> Mapping[str, str]:
    """The ids of the tasks of all `EDITS`."""
    return {prompt: site.submit(prompt, **fields) for prompt, fields in EDITS.items()}


def test_fifty_identical_callbacks_at_once_are_one(
    site: Site, submitted: Mapping[str, str]
) -> None:
    task_id = submitted["[concurrent 50]"]

    assert_done_once(site, task_id, images=2)
    until(lambda: len(answers(site, task_id)) == 50, "all of them were sent")
    assert answers(site, task_id) == [200] * 50
    (callback,) = site.callbacks(task_id)
    assert (callback["verdict"], callback["duplicates"]) == ("accepted", 49)


@pytest.mark.parametrize(
    ("prompt", "images"),
    [("[duplicate 3]", 1), ("[gzip]", 1), ("[chunked]", 1), ("[image_url]", 1), ("[partial 1]", 1)],
)
def test_a_result_in_any_wrapping_is_taken(
    site: Site, submitted: Mapping[str, str], prompt: str, images: int
) -> None:
    task = assert_done_once(site, submitted[prompt], images)

    assert [callback["verdict"] for callback in task["callbacks"]] == ["accepted"]
    assert task["verification"] == "token"


def test_a_callback_may_come_before_the_submission_is_answered(
    site: Site, submitted: Mapping[str, str]
) -> None:
    task_id = submitted["[early]"]

    task = assert_done_once(site, task_id)
    events = events_of(task)
    assert events.index("received") < events.index("submitted")
    assert task["submitted_at"] >= task["received_at"]
    assert task["provider_task_id"]


def test_what_never_comes_is_asked_for_in_time(
    site: Site, submitted: Mapping[str, str], figures: list[str]
) -> None:
    task = assert_done_once(site, submitted["[never]"])

    assert task["verification"] == "confirmed"
    waited = seconds_between(task["submitted_at"], task["received_at"])
    assert RECONCILE_AFTER <= waited < RECONCILE_AFTER + 10
    figures.append(f"never called back: found {waited:.1f} s after the submission")


@pytest.mark.parametrize("site", ["postgresql-s3"], indirect=True)
def test_results_are_found_that_are_too_large_for_one_answer(site: Site) -> None:
    tasks = [
        site.submit(prompt) for prompt in ("[huge 36] [never]", "[huge 36] [never]", "[never]")
    ]

    for task_id in tasks:
        task = assert_done_once(site, task_id)
        assert [callback["source"] for callback in task["callbacks"]] == ["lookup"]


@pytest.mark.parametrize("prompt", ["[never] [hang up after]", "[never] [504]"])
def test_an_unclear_submission_is_asked_for_and_not_repeated(
    site: Site, submitted: Mapping[str, str], prompt: str
) -> None:
    task = assert_done_once(site, submitted[prompt])

    assert task["verification"] == "confirmed"
    events = events_of(task)
    assert events[:5] == ["created", "submitting", "uncertain", "submitted", "received"]
    uncertain, received = task["timeline"][2]["at"], task["timeline"][4]["at"]
    assert seconds_between(uncertain, received) < 10


def test_a_forged_callback_changes_nothing(site: Site, submitted: Mapping[str, str]) -> None:
    task_id = submitted["[forged]"]

    task = assert_done_once(site, task_id)
    assert [callback["source"] for callback in task["callbacks"]] == ["lookup"]
    assert answers(site, task_id) == [404]
    rejected = site.client.call("GET", "/v1/callbacks?verdict=rejected").json["items"]
    forged = [item for item in rejected if item["reason"].startswith("token: ")]
    assert forged
    assert forged[0]["task_id"] is None
    assert forged[0]["sha256"] is None
    assert forged[0]["address"] == "127.0.0.1"


@pytest.mark.parametrize(
    ("prompt", "reason"),
    [
        ("[wrong id] [late 1]", "task_id: "),
        ("[truncated json]", "not JSON: "),
        ("[empty]", "not JSON: "),
    ],
)
def test_what_is_no_result_is_kept_and_changes_nothing(
    site: Site, submitted: Mapping[str, str], prompt: str, reason: str
) -> None:
    task_id = submitted[prompt]

    task = assert_done_once(site, task_id)
    assert answers(site, task_id) == [422]
    # The lookup has found the result; and what was refused can be read.
    assert [item["source"] for item in task["callbacks"]] == ["callback", "lookup"]
    accepted, refused = site.callbacks(task_id)
    assert (accepted["verdict"], refused["verdict"]) == ("accepted", "rejected")
    assert refused["reason"].startswith(reason)
    assert len(body_of(site, refused)) == refused["bytes"]


@pytest.mark.parametrize("prompt", ["[base64]", "[huge]"])
def test_base64_is_stored_and_then_replaced_by_a_reference(
    site: Site, submitted: Mapping[str, str], prompt: str
) -> None:
    images = EDITS[prompt].get("n", 1)

    task = assert_done_once(site, submitted[prompt], images)
    (callback,) = task["callbacks"]
    if prompt == "[huge]":
        assert callback["bytes"] == HUGE_BYTES
    references = [image["url"].rpartition(".")[0] for image in task["images"]]
    # What is no image, as the padding of a huge body, stays.
    until(lambda: len(body_of(site, callback)) < 100_000, "the base64 is replaced")
    data = json.loads(body_of(site, callback))["data"]
    assert [item["b64_json"] for item in data] == references


def test_a_failure_is_told_as_the_provider_tells_it(
    site: Site, submitted: Mapping[str, str]
) -> None:
    task = site.ends(submitted["[forbidden]"])

    assert task["status"] == "failed"
    assert task["error"] == {
        "code": "forbidden",
        "message": "the request was rejected by the safety system",
    }
    assert task["images"] == []


@pytest.mark.parametrize(
    ("prompt", "images"), [("[success then failure]", 1), ("[two successes]", 2)]
)
def test_nothing_replaces_a_success(
    site: Site, submitted: Mapping[str, str], prompt: str, images: int
) -> None:
    task_id = submitted[prompt]

    until(lambda: answers(site, task_id) == [200, 200], "both callbacks are answered")
    task = site.ends(task_id)
    assert task["status"] == "succeeded"
    assert task["error"] is None
    assert [callback["verdict"] for callback in task["callbacks"]] == ["accepted", "conflict"]
    assert len(task["images"]) == images
    assert {key for key in site.objects() if task_id in key} == keys_of(task)


def test_a_success_replaces_a_failure(site: Site, submitted: Mapping[str, str]) -> None:
    task_id = submitted["[failure then success]"]

    until(lambda: answers(site, task_id) == [200, 200], "both callbacks are answered")
    task = assert_done_once(site, task_id)
    assert task["error"] is None
    assert [callback["verdict"] for callback in task["callbacks"]] == ["accepted", "accepted"]
    events = events_of(task)
    assert events.index("failed") < events.index("received")


def test_a_late_callback_repeats_what_the_lookup_has_told(
    site: Site, submitted: Mapping[str, str]
) -> None:
    task_id = submitted["[late 10]"]

    before = assert_done_once(site, task_id)
    assert [callback["source"] for callback in before["callbacks"]] == ["lookup"]
    until(lambda: answers(site, task_id), "the callback comes")
    assert answers(site, task_id) == [200]
    (callback,) = site.callbacks(task_id)
    assert callback["duplicates"] == 1
    assert assert_done_once(site, task_id) == before


def test_after_the_deadline_a_late_success_still_wins(resources: Resources) -> None:
    sandbox = Sandbox(["--delay", "4"], resources.new_folder("slow"))
    settings = {"TASK_DEADLINE": "1", "RECONCILE_AFTER": "1"}
    with (
        running(sandbox),
        installed(
            resources, "sqlite", "local", sandbox=sandbox, embedded=True, settings=settings
        ) as site,
    ):
        task_id = site.submit()
        failed = site.ends(task_id)
        assert (failed["status"], failed["error"]["code"]) == ("failed", "timeout")
        assert seconds_between(failed["created_at"], failed["finished_at"]) < 6

        site.reaches(task_id, "succeeded")
        task = assert_done_once(site, task_id)
        assert task["error"] is None
        assert task["finished_at"] > failed["finished_at"]


def answers(site: Site, task_id: str) -> list[int | None]:
    """How the callbacks of a task were answered."""
    callbacks: Json = site.sandbox.state()["callbacks"]
    found: list[int | None] = callbacks.get(task_id, {"answers": []})["answers"]
    return found


def body_of(site: Site, callback: Json) -> bytes:
    """A callback's body as it is kept now."""
    return site.client.call("GET", f"/v1/callbacks/{callback['id']}/body").body

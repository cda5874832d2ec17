"""Killed between the note that a request is on its way and its arrival: nobody can know, nobody pays."""

from tests.acceptance.sites import Site, events_of, seconds_between


def test_a_request_that_reached_nobody_is_not_sent_again(
    sent_into_silence: tuple[Site, str], figures: list[str]
) -> None:
    site, task_id = sent_into_silence

    task = site.ends(task_id, seconds=180)
    assert task["status"] == "failed"
    assert task["error"]["code"] == "unknown_outcome"
    assert task["images"] == task["callbacks"] == []
    assert events_of(task) == ["created", "submitting", "uncertain", "failed"]
    assert site.sandbox.submissions(task_id) == 0
    asked = seconds_between(task["timeline"][2]["at"], task["timeline"][3]["at"])
    assert asked < 180
    figures.append(f"a request that reached nobody was given up after {asked:.0f} s")

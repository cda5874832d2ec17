"""CONFIRM_CALLBACKS=on, with a provider that is really asked."""

import hashlib
import json
from uuid import UUID

from app import config, services
from app.sandbox.hosting import PHOTOS
from tests.acceptance.sites import Resources, Site, events_of, installed, seconds_between
from tests.factories import success


def callback_url(site: Site, task_id: str) -> str:
    """What only the provider should know."""
    parts = services.build(config.load(site.environ))
    try:
        task = site.task(task_id)
        token = parts.signing.callback_token(task["provider"], UUID(task_id))
        return f"/callbacks/{token}"
    finally:
        parts.close()


def test_a_forged_callback_waits_for_the_true_one(resources: Resources) -> None:
    on = {"CONFIRM_CALLBACKS": "on"}
    with installed(resources, "sqlite", "local", working=True, settings=on) as site:
        task_id = site.submit("sepia [late 4]")
        site.reaches(task_id, "submitted")
        body = json.dumps(success(f"{site.sandbox.url}/photos/coffee.png")).encode()
        forged = site.client.call("POST", callback_url(site, task_id), body=body)
        assert forged.json["status"] == "accepted"

        task = site.ends(task_id)
        assert (task["status"], task["verification"]) == ("succeeded", "confirmed")
        assert events_of(task).count("received") == 1
        (image,) = task["images"]
        assert image["sha256"] != hashlib.sha256((PHOTOS / "coffee.png").read_bytes()).hexdigest()
        # The provider was asked when the true one came, not when it would have been without.
        assert seconds_between(task["submitted_at"], task["received_at"]) < 30

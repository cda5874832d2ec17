"""An edit's whole way, from its submission to its stored images, wherever the service keeps things."""

import hashlib
import io
import re
import statistics
from collections.abc import Mapping
from urllib.parse import parse_qs, urlsplit

import pytest
import urllib3
from PIL import Image

from app.imaging import THUMBNAIL_SIDE
from tests.acceptance.sites import (
    Json,
    Site,
    assert_done_once,
    assert_nothing_else,
    events_of,
    keys_of,
    seconds_between,
)
from tests.sandbox.client import Client

JOURNEYS_TIMED = 5

UUID = r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
UUID_7 = r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"
TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"
SHA256 = r"[0-9a-f]{64}"


class Like:
    """Equals every text that the pattern matches as a whole."""

    def __init__(self, pattern: str) -> None:
        self._pattern = pattern

    def __eq__(self, other: object) -> bool:
        return isinstance(other, str) and re.fullmatch(self._pattern, other) is not None

    def __hash__(self) -> int:
        return hash(self._pattern)

    def __repr__(self) -> str:
        return f"Like({self._pattern!r})"


@pytest.fixture(
    params=[
        "sqlite-local",
        "sqlite-s3",
        "postgresql-local",
        "postgresql-s3",
        "sqlite-local-embedded",
    ]
)
def place(request: pytest.FixtureRequest) -> str:
    """Everywhere."""
    return str(request.param)


def test_the_lookup_tells_the_whole_story(working_site: Site) -> None:
    site = working_site
    photos = [site.sandbox.photo, f"{site.sandbox.url}/photos/coffee.png"]
    request: Json = {
        "image": photos,
        "prompt": "make it sepia",
        "model": "gpt-image-2",
        "n": 2,
        "trace_id": "order 7",
        "metadata": {"customer": "42"},
        "deadline": 600,
        "async": True,
        "a field of next month": {"deep": [1, None, "ü"]},
    }
    task_id = site.submit(**request)

    task = assert_done_once(site, task_id, images=2)
    known = looked_up_at_the_provider(site, task_id)
    assert task == {
        "task_id": Like(UUID_7),
        "provider": "acedata",
        "provider_task_id": known["id"],
        "trace_id": "order 7",
        "status": "succeeded",
        "model": "gpt-image-2",
        "prompt": "make it sepia",
        "request": request,
        "metadata": {"customer": "42"},
        "images": [expected_image(site, known, index) for index in range(2)],
        "inputs": [
            {"index": index, "role": "image", "url": url, "content_type": None, "bytes": None}
            for index, url in enumerate(photos)
        ],
        "partial_images": [],
        "usage": known["response"]["usage"],
        "error": None,
        "verification": "token",
        "callbacks": [
            {
                "id": Like(UUID_7),
                "source": "callback",
                "verdict": "accepted",
                "received_at": Like(TIME),
                "bytes": len(stored_body(site, task)),
                "sha256": hashlib.sha256(stored_body(site, task)).hexdigest(),
            }
        ],
        "timeline": [
            {"at": Like(TIME), "event": Like("[a-z_]+"), "detail": entry["detail"]}
            for entry in task["timeline"]
        ],
        "created_at": Like(TIME),
        "submitted_at": Like(TIME),
        "received_at": Like(TIME),
        "finished_at": Like(TIME),
    }
    assert task["task_id"] == task_id
    assert_in_order(task)
    assert site.client.call("GET", f"/v1/tasks/{known['id']}").json == task
    assert site.sandbox.state()["callbacks"][task_id] == {"sent": 1, "answers": [200]}


def test_images_are_given_out_as_the_provider_made_them(working_site: Site) -> None:
    site = working_site
    task_id = site.submit("mirror", output_format="webp", n=2)

    task = assert_done_once(site, task_id, images=2)
    links = [item["url"] for item in looked_up_at_the_provider(site, task_id)["response"]["data"]]
    for image, link in zip(task["images"], links, strict=True):
        data = downloaded(site, image["url"], "image/webp")
        assert data == urllib3.request("GET", link).data
        assert hashlib.sha256(data).hexdigest() == image["sha256"]
        assert len(data) == image["bytes"]
        thumbnail = Image.open(io.BytesIO(downloaded(site, image["thumbnail_url"], "image/webp")))
        assert thumbnail.format == "WEBP"
        assert max(thumbnail.size) == min(THUMBNAIL_SIDE, image["width"])
    assert_nothing_else(site)


def test_files_go_the_same_way(working_site: Site) -> None:
    site = working_site
    photo = urllib3.request("GET", site.sandbox.photo).data
    size = Image.open(io.BytesIO(photo)).size
    mask = io.BytesIO()
    Image.new("RGBA", size).save(mask, "PNG")
    # Larger than what S3 takes in one piece: what follows a PNG's end is no part of it.
    large = photo + bytes(9_000_000)
    form = [("image[]", ("a", large)), ("image[]", ("b", photo)), ("mask", ("c", mask.getvalue()))]
    texts = {"prompt": "sepia", "async": "true", "n": "2"}

    answer = site.client.call("POST", "/v1/images/edits", fields=[*texts.items(), *form])
    assert answer.status == 200, answer.body
    task = site.ends(answer.json["task_id"])
    assert (task["status"], len(task["images"])) == ("succeeded", 2)
    uploaded = {
        f"inputs/{task['task_id']}/{name}" for name in ("image-0.png", "image-1.png", "mask-0.png")
    }
    assert {key for key in site.objects() if task["task_id"] in key} == keys_of(task) | uploaded
    given = [(each["role"], each["index"], each["bytes"]) for each in task["inputs"]]
    assert given == [
        ("image", 0, len(large)),
        ("image", 1, len(photo)),
        ("mask", 0, len(mask.getvalue())),
    ]
    for each, data in zip(task["inputs"], (large, photo, mask.getvalue()), strict=True):
        assert downloaded(site, each["url"], "image/png") == data
    assert site.client.call("DELETE", f"/v1/tasks/{task['task_id']}").status == 204
    assert_nothing_else(site)


def test_how_long_a_journey_takes(working_site: Site, place: str, figures: list[str]) -> None:
    tasks = [working_site.ends(working_site.submit()) for _ in range(JOURNEYS_TIMED)]

    stored = [seconds_between(task["received_at"], task["finished_at"]) for task in tasks]
    whole = [seconds_between(task["created_at"], task["finished_at"]) for task in tasks]
    figures.append(
        f"{place}: callback to stored image p50 {statistics.median(stored):.2f} s, "
        f"submission to stored image p50 {statistics.median(whole):.2f} s, of {len(tasks)}"
    )
    assert {task["status"] for task in tasks} == {"succeeded"}


def looked_up_at_the_provider(site: Site, task_id: str) -> Json:
    """What the provider knows of a task of ours."""
    client = Client(site.sandbox.url)
    known: Json = client.look_up(action="retrieve", trace_id=task_id)
    client.pool.clear()
    return known


def expected_image(site: Site, known: Json, index: int) -> Json:
    """How the lookup shows an image of the provider's result."""
    data = urllib3.request("GET", known["response"]["data"][index]["url"]).data
    width, height = Image.open(io.BytesIO(data)).size
    address = re.escape(f"{site.environ['PUBLIC_URL']}/images/")
    return {
        "index": index,
        "url": Like(address + r"[A-Za-z0-9_.-]+\.png"),
        "thumbnail_url": Like(address + r"[A-Za-z0-9_.-]+\.webp"),
        "content_type": "image/png",
        "bytes": len(data),
        "width": width,
        "height": height,
        "sha256": hashlib.sha256(data).hexdigest(),
        "revised_prompt": None,
        "status": "stored",
    }


def stored_body(site: Site, task: Json) -> bytes:
    """The callback that made the task, as it is kept."""
    (callback,) = task["callbacks"]
    return site.client.call("GET", f"/v1/callbacks/{callback['id']}/body").body


def downloaded(site: Site, url: str, content_type: str) -> bytes:
    """What anybody gets at an image's address."""
    answer = urllib3.request("GET", url, redirect=False)
    if site.environ["S3_BUCKET"]:
        assert answer.status == 302
        answer = followed(site, answer.headers)
    else:
        assert "immutable" in answer.headers["Cache-Control"]
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.status == 200, answer.data
    assert answer.headers["Content-Type"] == content_type
    return answer.data


def followed(site: Site, headers: Mapping[str, str]) -> urllib3.BaseHTTPResponse:
    """What is at the presigned address that a redirect leads to, which lives longer than it."""
    address = headers["Location"]
    assert address.startswith(f"{site.environ['S3_ENDPOINT_URL']}/{site.environ['S3_BUCKET']}/")
    (lifetime,) = parse_qs(urlsplit(address).query)["X-Amz-Expires"]
    (kept,) = re.findall(r"max-age=(\d+)", headers["Cache-Control"])
    assert int(kept) < int(lifetime)
    return urllib3.request("GET", address)


def assert_in_order(task: Json) -> None:
    """Everything came after what it follows from."""
    times = [task[name] for name in ("created_at", "submitted_at", "received_at", "finished_at")]
    assert times == sorted(times)
    at = [entry["at"] for entry in task["timeline"]]
    assert at == sorted(at)
    assert (at[0], at[-1]) >= (task["created_at"], task["finished_at"])
    events = events_of(task)
    assert events == [
        "created", "submitting", "submitted", "received", "image_stored", "image_stored",
        "succeeded",
    ]  # fmt: skip

"""The packages that callers have already: unchanged, only with another base URL."""

import hashlib
import io
import re
from base64 import b64decode
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any, NamedTuple

import acedatacloud._runtime.errors as theirs
import openai
import pytest
import urllib3
from acedatacloud import AceDataCloud
from openai import OpenAI
from PIL import Image

from app.models import Scope
from tests.acceptance.conftest import PLACES
from tests.acceptance.sites import Json, Resources, Site, assert_done_once, installed
from tests.acceptance.waiting import until
from tests.core.sites import Answer, Asked, json_answer, running_site
from tests.core.sites import Site as Other
from tests.factories import png

RED, BLUE = png(64, 64, "red"), png(64, 64, "blue")
# What is signed with it is looked at elsewhere.
WEBHOOK_SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


@pytest.fixture(scope="module")
def subscriber() -> Iterator[Other]:
    """Where results are pushed to."""
    with running_site() as other:
        other.replies["/hook"] = Answer(204)
        yield other


@pytest.fixture(scope="module", params=PLACES)
def site(request: pytest.FixtureRequest, resources: Resources) -> Iterator[Site]:
    """A site at work, which may call this machine."""
    database, storage = request.param.split("-")
    settings = {"ALLOW_PRIVATE_HOSTS": "127.0.0.0/8", "WEBHOOK_SECRET": WEBHOOK_SECRET}
    with installed(resources, database, storage, working=True, settings=settings) as site:
        yield site


@contextmanager
def ace(site: Site, key: str | None = None, **options: Any) -> Iterator[AceDataCloud]:
    """The provider's own client."""
    given = {"api_token": key or site.client.token, "base_url": site.client.url, **options}
    with AceDataCloud(**given) as client:
        yield client


@contextmanager
def open_ai(site: Site, key: str | None = None, **options: Any) -> Iterator[OpenAI]:
    """OpenAI's client."""
    given = {"api_key": key or site.client.token, "base_url": f"{site.client.url}/v1", **options}
    with OpenAI(**given) as client:
        yield client


def mask() -> bytes:
    """A mask for images of 64 x 64 pixels."""
    file = io.BytesIO()
    Image.new("RGBA", (64, 64)).save(file, "PNG")
    return file.getvalue()


def assert_image(site: Site, answer: Mapping[str, Any], images: int = 1) -> None:
    """The answer has so many images at addresses that work, of a task that was paid for once."""
    task = assert_done_once(site, answer["task_id"], images)
    urls = [item["url"] for item in answer["data"]]
    assert urls == [image["url"] for image in task["images"]]
    for url, image in zip(urls, task["images"], strict=True):
        data = urllib3.request("GET", url).data
        assert hashlib.sha256(data).hexdigest() == image["sha256"]


def test_acedatacloud_waits_for_an_edit(site: Site) -> None:
    with ace(site) as client:
        answer = client.openai.images.edit(image=site.sandbox.photo, prompt="sepia")
        assert_image(site, answer)
        several = client.openai.images.edit(image=[site.sandbox.photo] * 2, prompt="mirror", n=2)
        assert_image(site, several, 2)


def test_acedatacloud_polls_for_an_edit(site: Site) -> None:
    with ace(site) as client:
        submitted = client.openai.images.edit(
            image=site.sandbox.photo, prompt="sepia", model="gpt-image-2", async_=True
        )
        assert submitted.keys() == {"success", "task_id", "trace_id"}
        state = client.tasks.wait(submitted["task_id"], service="openai", poll_interval=0.2)
        assert state["response"]["success"] is True
        assert_image(site, state["response"])
        by_id = client.openai.tasks.retrieve(id=submitted["task_id"])
        assert by_id["response"] == state["response"]

        refused = client.openai.images.edit(
            image=site.sandbox.photo, prompt="[forbidden]", async_=True
        )
        state = client.tasks.wait(refused["task_id"], service="openai", poll_interval=0.2)
        assert state["response"]["error"]["code"] == "forbidden"


def test_acedatacloud_is_called_back(site: Site, subscriber: Other) -> None:
    with ace(site) as client:
        submitted = client.openai.images.edit(
            image=site.sandbox.photo, prompt="sepia", callback_url=f"{subscriber.url}/hook"
        )

    def mine() -> list[Json]:
        bodies = [asked.json for asked in subscriber.asked("/hook")]
        return [body for body in bodies if body["task_id"] == submitted["task_id"]]

    (body,) = until(mine, "the result is pushed")
    assert body["success"] is True
    assert_image(site, body)


@pytest.mark.parametrize("provider", ["acedata", "agcloud"])
@pytest.mark.parametrize(
    "files",
    [
        {"image": RED},
        {"image": ("photo.png", RED), "mask": mask()},
        {"image": [RED, BLUE]},
        {"image": [io.BytesIO(RED), io.BytesIO(BLUE), io.BytesIO(RED)], "mask": mask()},
    ],
    ids=["a file", "a file and a mask", "files", "open files and a mask"],
)
def test_openai_uploads_files(site: Site, provider: str, files: Mapping[str, Any]) -> None:
    with open_ai(site) as client:
        given = {"model": "gpt-image-2", "prompt": "mirror", "n": 2, **files}
        answer = client.images.edit(**given, extra_body={"provider": provider})

    assert answer.data is not None
    assert answer.usage is not None
    extra = answer.model_extra or {}
    assert_image(site, {**extra, "data": [item.model_dump() for item in answer.data]}, 2)
    inputs = site.task(extra["task_id"])["inputs"]
    images = files["image"] if isinstance(files["image"], list) else [files["image"]]
    roles = ["image"] * len(images) + ["mask"] * ("mask" in files)
    assert [item["role"] for item in inputs] == roles
    assert urllib3.request("GET", inputs[0]["url"]).data == RED


def test_openai_gets_bytes(site: Site) -> None:
    with open_ai(site) as client:
        answer = client.images.edit(image=RED, prompt="mirror", response_format="b64_json")
    assert answer.data is not None
    data = b64decode(answer.data[0].b64_json or "")
    (image,) = assert_done_once(site, (answer.model_extra or {})["task_id"])["images"]
    assert hashlib.sha256(data).hexdigest() == image["sha256"]


@pytest.fixture(scope="module")
def refusing(resources: Resources) -> Iterator[Site]:
    """A site whose provider refuses each edit with the code and status that its prompt names."""

    def refuse(asked: Asked) -> Answer:
        # In JSON or in a form.
        code, status = re.findall(rb"code=(\w+) status=(\d+)", asked.body)[0]
        return json_answer({"error": {"code": code.decode(), "message": "no"}}, int(status))

    with running_site() as provider:
        provider.replies["/openai/images/edits"] = refuse
        settings = {"ACEDATA_BASE_URL": provider.url, "ALLOW_PRIVATE_HOSTS": "127.0.0.0/8"}
        with installed(resources, "sqlite", "local", embedded=True, settings=settings) as site:
            yield site


@pytest.mark.parametrize(
    ("code", "status", "ace_error", "openai_error"),
    [
        ("bad_request", 400, theirs.ValidationError, openai.BadRequestError),
        ("invalid_token", 401, theirs.AuthenticationError, openai.AuthenticationError),
        ("token_mismatched", 401, theirs.TokenMismatchError, openai.AuthenticationError),
        ("forbidden", 403, theirs.ModerationError, openai.PermissionDeniedError),
        ("used_up", 403, theirs.InsufficientBalanceError, openai.PermissionDeniedError),
        ("disabled", 403, theirs.ResourceDisabledError, openai.PermissionDeniedError),
        ("no_api", 404, theirs.APIError, openai.NotFoundError),
    ],
)
def test_a_refusal_of_the_provider_is_the_error_that_clients_know(
    refusing: Site,
    code: str,
    status: int,
    ace_error: type[theirs.APIError],
    openai_error: type[openai.APIStatusError],
) -> None:
    prompt = f"code={code} status={status}"
    with ace(refusing) as client, pytest.raises(ace_error) as raised:
        client.openai.images.edit(image="https://example.com/1.png", prompt=prompt)
    assert type(raised.value) is ace_error
    assert (raised.value.code, raised.value.status_code) == (code, status)
    with open_ai(refusing) as other, pytest.raises(openai_error) as seen:
        other.images.edit(image=RED, prompt=prompt)
    assert (seen.value.code, seen.value.status_code) == (code, status)
    # Whose key is wrong: not the caller's.
    assert ("not the caller's" in seen.value.message) == (status == 401)


@pytest.fixture(scope="module")
def reader(site: Site) -> str:
    """A key that may not submit."""
    return site.new_key(Scope.READ)


class Wrong(NamedTuple):
    """A call that is refused, and with what; `key` is one that is not the site's own."""

    code: str
    ace_error: type[theirs.APIError]
    openai_error: type[openai.APIStatusError]
    key: str = ""
    fields: Mapping[str, Any] = MappingProxyType({})
    param: str | None = None


@pytest.mark.parametrize(
    "wrong",
    [
        Wrong("invalid_token", theirs.AuthenticationError, openai.AuthenticationError, "pb_no"),
        Wrong("insufficient_scope", theirs.ModerationError, openai.PermissionDeniedError, "reader"),
        Wrong(
            "bad_request",
            theirs.ValidationError,
            openai.BadRequestError,
            fields={"n": 11},
            param="n",
        ),
        Wrong(
            "not_an_image",
            theirs.APIError,
            openai.InternalServerError,
            fields={"prompt": "[not an image]"},
        ),
    ],
    ids=lambda wrong: wrong.code,
)
def test_an_error_of_ours_is_one_that_clients_know(site: Site, reader: str, wrong: Wrong) -> None:
    key = reader if wrong.key == "reader" else wrong.key
    edit: dict[str, Any] = {"prompt": "sepia", **wrong.fields}
    with ace(site, key, max_retries=0) as client, pytest.raises(wrong.ace_error) as raised:
        client.openai.images.edit(image=site.sandbox.photo, **edit)
    assert type(raised.value) is wrong.ace_error
    assert raised.value.code == wrong.code
    with open_ai(site, key, max_retries=0) as other, pytest.raises(wrong.openai_error) as seen:
        other.images.edit(image=RED, **edit)
    assert (seen.value.code, seen.value.param) == (wrong.code, wrong.param)
    assert seen.value.request_id


def test_what_is_not_there_is_not_found(site: Site) -> None:
    with ace(site) as client, pytest.raises(theirs.APIError) as raised:
        client.tasks.get("nothing", service="nothing")
    assert raised.value.status_code == 404
    with open_ai(site) as other, pytest.raises(openai.NotFoundError):
        other.models.list()


def test_who_calls_too_often_is_told_so_as_clients_know_it(site: Site) -> None:
    edit: dict[str, Any] = {"prompt": "sepia"}
    with site.beside(RATE_LIMITS="1 per hour") as url:
        with ace(site, base_url=url, max_retries=0) as client:
            client.openai.images.edit(image=site.sandbox.photo, async_=True, **edit)
            with pytest.raises(theirs.RateLimitError):
                client.openai.images.edit(image=site.sandbox.photo, async_=True, **edit)
        with (
            open_ai(site, base_url=f"{url}/v1", max_retries=0) as other,
            pytest.raises(openai.RateLimitError) as raised,
        ):
            other.images.edit(image=RED, **edit)
    assert 0 < int(raised.value.response.headers["Retry-After"]) <= 3600


def tasks_of(site: Site, prompt: str) -> list[Json]:
    return [task for task in site.tasks() if task["prompt"] == prompt]


def assert_paid_once(site: Site, prompt: str) -> str:
    """There is one task with that prompt, which was paid for once and has its image; its id."""
    (task,) = tasks_of(site, prompt)
    assert_done_once(site, task["task_id"])
    return str(task["task_id"])


@pytest.mark.parametrize("name", ["acedatacloud", "openai"])
def test_a_client_that_gives_up_waiting_and_asks_again_pays_once(site: Site, name: str) -> None:
    prompt = f"{name} is impatient [late 3]"
    if name == "openai":
        with open_ai(site, timeout=2, max_retries=5) as client:
            answered = client.images.edit(image=RED, prompt=prompt).model_extra or {}
    else:
        with ace(site, timeout=2, max_retries=5) as other:
            answered = other.openai.images.edit(image=site.sandbox.photo, prompt=prompt)

    assert assert_paid_once(site, prompt) == answered["task_id"]


def test_a_504_loses_nothing_and_is_paid_once(site: Site) -> None:
    openais, theirs_ = "openai and the 504 [late 4]", "acedatacloud and the 504 [late 2]"
    with site.beside(SYNC_WAIT="1") as url:
        with (
            open_ai(site, base_url=f"{url}/v1") as client,
            pytest.raises(openai.InternalServerError) as raised,
        ):
            client.images.edit(image=RED, prompt=openais)
        # This one does as it is told and does not ask again, that one does.
        with ace(site, base_url=url, max_retries=9) as other:
            answered = other.openai.images.edit(image=site.sandbox.photo, prompt=theirs_)

    assert (raised.value.status_code, raised.value.code) == (504, "timeout")
    assert raised.value.response.json()["task_id"] == assert_paid_once(site, openais)
    assert answered["task_id"] == assert_paid_once(site, theirs_)


def test_openai_names_its_calls_by_a_key(site: Site) -> None:
    named = {"Idempotency-Key": "mine"}
    with open_ai(site) as client:
        edit = client.images.with_raw_response.edit
        first = edit(image=RED, prompt="keyed", extra_headers=named)
        again = edit(image=RED, prompt="keyed", extra_headers=named)
        with pytest.raises(openai.UnprocessableEntityError) as raised:
            edit(image=BLUE, prompt="keyed", extra_headers=named)

    assert first.content == again.content
    assert again.headers["Idempotent-Replayed"] == "true"
    assert raised.value.code == "idempotency_mismatch"
    assert_paid_once(site, "keyed")

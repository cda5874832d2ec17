"""Who may post a callback: only whoever was given the task's signed URL, and nothing is read before."""

import hashlib
import io
import time
from collections.abc import Callable

import pytest
from itsdangerous import TimestampSigner
from sqlalchemy import delete
from werkzeug.test import TestResponse

from app.models import Scope, Task, new_id
from app.signing import Picture
from app.web.rejections import PER_SECOND
from tests.factories import SECRET_KEY, eventually, make_task, success
from tests.scarcity import no_more_threads
from tests.web.sites import ADDRESS, Json, Site, error_of, fetch

TEN_GIGABYTES = "10737418240"


class Past(TimestampSigner):
    """Signs as if it were a while ago."""

    def get_timestamp(self) -> int:
        return int(time.time()) - 3


class Unread(io.RawIOBase):
    """A body that nobody may read."""

    def readable(self) -> bool:
        return True

    def readinto(self, _buffer: object) -> int:
        raise AssertionError("the body was read")


def send(site: Site, token: str, *, length: str = "100", method: str = "POST") -> TestResponse:
    """Send a request whose body must not be read."""
    return site.send(method, f"/callbacks/{token}", Unread(), {"CONTENT_LENGTH": length})


def refused(response: TestResponse) -> None:
    error = error_of(response, 404)
    assert (error["code"], error["message"]) == ("not_found", "no such callback URL")


def token_of(site: Site, task: Task) -> str:
    return site.callback_path(task).removeprefix("/callbacks/")


def spoilt(text: str, at: int) -> str:
    return f"{text[:at]}{'A' if text[at] != 'A' else 'B'}{text[at + 1 :]}"


ALTERED: dict[str, Callable[[str], list[str]]] = {
    "no token": lambda _: ["", "/", "."],
    "made up": lambda _: ["x", "acedata", "a" * 5000, "acedata.1.2", "ünïcode", "%00"],
    "padded": lambda token: [token + "=", token + "==", token + ".", token + "/", token + " "],
    "a letter in between": lambda token: [token[:-5] + "!" + token[-5:], token[:-1] + "\n"],
    "another provider": lambda token: [token.replace("acedata", "agcloud")],
    "upper case": lambda token: [token.upper(), token.swapcase()],
    "cut": lambda token: [token[:-1], token.rpartition(".")[0], token.partition(".")[2]],
    "one letter other": lambda token: [spoilt(token, at) for at in range(len(token))],
}


@pytest.mark.parametrize("what", ALTERED)
def test_an_altered_token_is_refused_and_nothing_is_read(sqlite_site: Site, what: str) -> None:
    task = make_task(sqlite_site.parts)
    for token in ALTERED[what](token_of(sqlite_site, task)):
        refused(send(sqlite_site, token))
    assert sqlite_site.look_up(task)["status"] == "queued"


def test_a_token_for_another_provider_or_for_a_picture_is_refused(sqlite_site: Site) -> None:
    task, signing = make_task(sqlite_site.parts), sqlite_site.parts.signing

    refused(send(sqlite_site, signing.callback_token("agcloud", task.id)))
    refused(send(sqlite_site, signing.picture_token(Picture.OUTPUT, task.id)))


def test_a_refused_token_is_in_the_rejection_log_with_the_size_that_it_declared(
    site: Site,
) -> None:
    sizes = {"1234567890": 1_234_567_890, TEN_GIGABYTES: 10_737_418_240, "many": 0, "": 0}
    for length in sizes:
        refused(send(site, "forged", length=length))
    # Whatever is declared, the answer is the same.
    for length in ("-1", "9" * 30):
        refused(send(site, "forged", length=length))

    entries = site.rejections()[::-1]
    assert [entry["bytes"] for entry in entries][: len(sizes)] == list(sizes.values())
    assert site.get(f"/v1/callbacks/{entries[0]['id']}/body").status_code == 404
    for entry in entries:
        assert entry["reason"] == "token: the callback URL was not signed here"
        assert (entry["address"], entry["task_id"], entry["sha256"]) == (ADDRESS, None, None)


def test_an_expired_token_is_refused_and_says_so_in_the_log(
    site_with: Callable[..., Site],
) -> None:
    site = site_with(callback_max_age="1s")
    task = make_task(site.parts)
    signer = Past(SECRET_KEY, salt="callback", key_derivation="hmac", digest_method=hashlib.sha256)

    refused(send(site, signer.sign(f"acedata.{task.id.hex}").decode()))
    (entry,) = site.rejections()
    assert entry["reason"] == "token: the callback URL has expired"


def test_a_task_that_is_gone_is_refused_and_nothing_is_read(sqlite_site: Site) -> None:
    task = make_task(sqlite_site.parts)
    token = token_of(sqlite_site, task)
    with sqlite_site.parts.db.transaction() as session:
        session.execute(delete(Task))

    refused(send(sqlite_site, token))
    (entry,) = sqlite_site.rejections()
    assert (entry["reason"], entry["bytes"]) == (f"task {task.id} is gone", 100)


def test_a_flood_of_forged_tokens_does_not_fill_the_log_and_hides_nothing_there(
    sqlite_site: Site,
) -> None:
    task = make_task(sqlite_site.parts)
    for _ in range(300):
        refused(send(sqlite_site, str(new_id())))
    error_of(send(sqlite_site, token_of(sqlite_site, task), length=TEN_GIGABYTES), 413)

    def log() -> list[Json]:
        return sqlite_site.callbacks(verdict="rejected", limit="100")

    assert log()[0]["task_id"] == str(task.id)
    # Ten in each second that the flood takes; the others are counted.
    assert 10 <= len(log()) <= 60
    eventually(lambda: sum(1 + entry["duplicates"] for entry in log()) == 301)


def test_a_flood_is_counted_although_no_thread_could_be_started_at_first(
    sqlite_site: Site,
) -> None:
    def flood() -> None:
        for _ in range(2 * PER_SECOND + 1):
            refused(send(sqlite_site, "forged"))

    with no_more_threads():
        flood()
    flood()

    def counted() -> int:
        entries = sqlite_site.callbacks(verdict="rejected", limit="100")
        return sum(entry["duplicates"] for entry in entries)

    eventually(counted)


def test_only_post_is_allowed(sqlite_site: Site) -> None:
    token = token_of(sqlite_site, make_task(sqlite_site.parts))
    for method in ("GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS"):
        response = send(sqlite_site, token, method=method)
        assert (response.status_code, response.headers["Allow"]) == (405, "POST")
        if method != "HEAD":
            error = error_of(response, 405)
            assert error["code"] == "method_not_allowed"
            assert method in error["message"]
    assert sqlite_site.rejections() == []


def test_what_was_signed_is_good_as_long_as_the_key_that_signed_it_is_named(
    site_with: Callable[..., Site],
) -> None:
    site = site_with()
    task = make_task(site.parts)
    site.finish(task)
    picture = site.look_up(task)["images"][0]["url"]
    path = site.callback_path(make_task(site.parts))
    api_key = {"Authorization": f"Bearer {site.key(Scope.READ)}"}
    new = "another secret key that is newer"
    for fallbacks, known in (("", False), (f"{new}-unused, {SECRET_KEY}", True)):
        rotated = site_with(secret_key=new, secret_key_fallbacks=fallbacks)
        statuses = [
            rotated.client.get("/v1/tasks", headers=api_key).status_code,
            fetch(rotated, picture).status_code,
            rotated.client.post(path, json=success()).status_code,
        ]
        assert statuses == ([200, 200, 200] if known else [401, 404, 404])

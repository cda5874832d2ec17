"""An image on its way into storage: what is fetched, what is refused, and how its task ends."""

import base64
import gzip
import hashlib
import io
import signal
import threading
import time
from dataclasses import replace
from functools import partial
from ipaddress import IPv4Network
from pathlib import Path
from typing import BinaryIO

import pytest
from PIL import Image as Pillow
from sqlalchemy import select

from app import bodies, images, jobs, reports
from app.errors import ImageError, OutboundError, StorageError
from app.jobs import Job, Kind
from app.models import Chunk, Event, Image, ImageStatus, Task, TaskStatus
from app.models import Job as JobRow
from app.outbound import Outbound
from app.services import Services
from app.signing import Picture
from app.storage.local import LocalStorage
from tests.core.conftest import at_once, count
from tests.core.sites import Answer, Asked, Site
from tests.core.test_imaging import signalled
from tests.factories import (
    claim,
    conclude,
    deliver,
    due_kinds,
    eventually,
    fail_next,
    get_task,
    images_of,
    make_task,
    noisy_png,
    png,
    reconfigured,
    run_next,
    somebody_waits,
    success,
    timeline,
)


class FailingStorage(LocalStorage):
    """Storage that takes nothing, or no key that begins with `prefix`."""

    def __init__(self, folder: Path, prefix: str = "") -> None:
        super().__init__(folder)
        self._prefix = prefix

    def put(self, key: str, file: BinaryIO, content_type: str) -> None:
        if key.startswith(self._prefix):
            raise StorageError("storage is down")
        super().put(key, file, content_type)


def with_storage_down(parts: Services, prefix: str = "") -> Services:
    folder = Path(parts.config.local_storage_dir)
    return replace(parts, storage=FailingStorage(folder, prefix))


def stored_bytes(parts: Services, key: str | None) -> bytes:
    with parts.storage.open(str(key)) as file:
        return file.read()


def only_image(parts: Services) -> Image:
    with parts.db.reading() as session:
        return session.scalars(select(Image)).one()


def test_an_image_is_copied_with_a_thumbnail_and_ends_its_task(parts: Services, host: Site) -> None:
    data = noisy_png(600)
    url = host.serve("/a.png?signature=1", data, headers={"Content-Type": "text/plain"})
    task = make_task(parts)
    deliver(parts, task, success(url))

    run_next(parts, Kind.STORE_IMAGE)

    (asked,) = host.asked("/a.png?signature=1")
    # Our key is the provider's, not the image host's.
    assert (asked.headers["Authorization"], asked.headers["Cookie"]) == (None, None)
    image = only_image(parts)
    assert image.status is ImageStatus.STORED
    assert (image.key, image.content_type) == (
        f"images/{task.id}/0-{image.id.hex}.png",
        "image/png",
    )
    assert (image.size, image.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    assert (image.width, image.height) == (600, 600)
    assert image.stored_at is not None
    assert stored_bytes(parts, image.key) == data
    thumbnail = Pillow.open(io.BytesIO(stored_bytes(parts, image.thumbnail_key)))
    assert (thumbnail.format, thumbnail.size) == ("WEBP", (480, 480))
    assert get_task(parts, task.id).status is TaskStatus.SUCCEEDED
    assert get_task(parts, task.id).finished_at is not None
    assert timeline(parts, task) == ["created", "received", "image_stored", "succeeded"]
    assert due_kinds(parts) == ["submit"]


def packed(data: bytes, *, without: int = 0) -> Answer:
    """What arrives compressed, or cut off before its end."""
    body = gzip.compress(data)
    return Answer(body=body[: len(body) - without], headers={"Content-Encoding": "gzip"})


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (Answer(body=b"<html><body>Sign in</body></html>"), "not_an_image"),
        (Answer(body=b""), "not_an_image"),
        (Answer(body=png(64, 64)[:-20]), "truncated_image"),
        (Answer(body=png(1001, 1000)), "too_many_pixels"),
        (Answer(body=noisy_png(200)), "too_large"),
        # Inflated it is a thousand times as large as it looks.
        (packed(bytes(5_000_000)), "too_large"),
        (Answer(302, headers={"Location": "http://10.1.2.3/latest/meta-data"}), "blocked_address"),
    ],
)
def test_what_is_no_usable_image_fails_at_once(
    sqlite_parts: Services, host: Site, answer: Answer, code: str
) -> None:
    strict = reconfigured(sqlite_parts, max_image_pixels=1_000_000, max_image_bytes=100_000)
    host.replies["/a"] = answer
    task = make_task(strict)
    deliver(strict, task, success(f"{host.url}/a"))

    error = fail_next(strict, Kind.STORE_IMAGE)

    assert isinstance(error, OutboundError | ImageError)
    image = only_image(strict)
    assert (image.status, image.error_code) == (ImageStatus.FAILED, code)
    assert image.error_message == str(error)
    task = get_task(strict, task.id)
    assert (task.status, task.error_code, task.error_status) == (TaskStatus.FAILED, code, 500)
    assert timeline(strict, task)[-2:] == ["image_failed", "failed"]
    assert due_kinds(strict) == ["submit"]


@pytest.mark.parametrize(
    ("encoded", "code"), [("QUJD" * 34, "too_large"), ("no base64!", "not_base64")]
)
def test_base64_in_a_body_is_counted_and_judged_too(
    sqlite_parts: Services, encoded: str, code: str
) -> None:
    strict = reconfigured(sqlite_parts, max_image_bytes=100)
    deliver(strict, make_task(strict), {"data": [{"b64_json": encoded}]})
    assert isinstance(fail_next(strict, Kind.STORE_IMAGE), ImageError)
    assert only_image(strict).error_code == code


# 302 without a Location leads nowhere.
@pytest.mark.parametrize("status", [400, 403, 404, 410, 302])
def test_a_link_that_says_no_three_times_is_given_up(
    sqlite_parts: Services, host: Site, status: int
) -> None:
    url = host.serve("/a", b"", status=status)
    task = make_task(sqlite_parts)
    deliver(sqlite_parts, task, success(url))
    for _ in range(2):
        fail_next(sqlite_parts, Kind.STORE_IMAGE)
        assert get_task(sqlite_parts, task.id).status is TaskStatus.RECEIVED

    fail_next(sqlite_parts, Kind.STORE_IMAGE)

    assert len(host.asked("/a")) == 3
    task = get_task(sqlite_parts, task.id)
    code = "redirect" if status == 302 else "image_unavailable"
    assert (task.status, task.error_code) == (TaskStatus.FAILED, code)
    assert (f"answered {status}" in str(task.error_message)) == (status != 302)


@pytest.mark.parametrize(
    "answer",
    [
        *(Answer(status) for status in (500, 503, 408, 425, 429)),
        Answer(cut=True),
        # It stands for any body that ends too early.
        packed(noisy_png(100), without=50),
    ],
)
def test_a_host_that_is_in_trouble_is_asked_more_often(
    sqlite_parts: Services, host: Site, answer: Answer
) -> None:
    host.replies["/a"] = answer
    task = make_task(sqlite_parts)
    deliver(sqlite_parts, task, success(f"{host.url}/a"))
    for _ in range(5):
        error = fail_next(sqlite_parts, Kind.STORE_IMAGE)
        assert isinstance(error, OutboundError) == (answer.status == 200)

    host.serve("/a", png())
    run_next(sqlite_parts, Kind.STORE_IMAGE)
    assert get_task(sqlite_parts, task.id).status is TaskStatus.SUCCEEDED


def test_so_many_redirects_are_followed_and_no_more(sqlite_parts: Services, host: Site) -> None:
    for number in range(5):
        host.serve(f"/{number}", b"", status=302, headers={"Location": f"/{number + 1}"})
    deliver(sqlite_parts, make_task(sqlite_parts), success(f"{host.url}/0"))
    assert isinstance(fail_next(sqlite_parts, Kind.STORE_IMAGE), OutboundError)
    assert host.asked("/3") != []
    assert host.asked("/4") == []
    host.serve("/3", png())
    run_next(sqlite_parts, Kind.STORE_IMAGE)
    assert only_image(sqlite_parts).status is ImageStatus.STORED


def test_only_hosts_that_are_allowed_are_asked(sqlite_parts: Services, host: Site) -> None:
    url = host.serve("/a", png()).replace("127.0.0.1", "elsewhere.test")
    outbound = Outbound([IPv4Network("127.0.0.0/8")], resolve=lambda _: ["127.0.0.1"])
    parts = replace(
        reconfigured(sqlite_parts, image_hosts=("images.test", "*.cdn.test")), outbound=outbound
    )
    deliver(parts, make_task(parts), success(url))
    fail_next(parts, Kind.STORE_IMAGE)
    assert only_image(parts).error_code == "host_not_allowed"
    assert host.asked("/a") == []

    allowed = make_task(parts)
    deliver(parts, allowed, success(url.replace("elsewhere.test", "a.cdn.test")))
    run_next(parts, Kind.STORE_IMAGE)
    assert get_task(parts, allowed.id).status is TaskStatus.SUCCEEDED


def test_bytes_are_put_aside_while_storage_is_down_and_the_link_is_not_asked_again(
    parts: Services, host: Site
) -> None:
    data = noisy_png(700)
    url = host.serve("/a", data)
    task = make_task(parts)
    deliver(parts, task, success(url))
    down = with_storage_down(parts)

    for _ in range(3):
        assert isinstance(fail_next(down, Kind.STORE_IMAGE), StorageError)

    with parts.db.reading() as session:
        tries_used = select(JobRow.failures).filter_by(kind=Kind.STORE_IMAGE)
        assert session.scalars(tries_used).all() == [0]
    assert len(host.asked("/a")) == 1
    image = only_image(parts)
    assert (image.status, image.spooled) == (ImageStatus.PENDING, True)
    assert get_task(parts, task.id).status is TaskStatus.RECEIVED
    assert count(parts.db, Chunk) == 2
    host.serve("/a", b"it has expired", status=403)

    run_next(parts, Kind.STORE_IMAGE)

    assert len(host.asked("/a")) == 1
    image = only_image(parts)
    assert (image.status, image.spooled) == (ImageStatus.STORED, False)
    assert stored_bytes(parts, image.key) == data
    assert count(parts.db, Chunk) == 0
    assert get_task(parts, task.id).status is TaskStatus.SUCCEEDED


def test_storage_that_fails_half_way_leaves_the_image_pending(
    sqlite_parts: Services, host: Site
) -> None:
    data = png()
    deliver(sqlite_parts, make_task(sqlite_parts), success(host.serve("/a", data)))
    fail_next(with_storage_down(sqlite_parts, "thumbnails/"), Kind.STORE_IMAGE)
    # It is there, and its row knows where, in case nothing comes of it.
    image = only_image(sqlite_parts)
    assert image.status is ImageStatus.PENDING
    assert stored_bytes(sqlite_parts, image.key) == data
    with sqlite_parts.db.reading() as session:
        assert reports.find_picture(session, Picture.OUTPUT, image.id)[1] is None

    run_next(sqlite_parts, Kind.STORE_IMAGE)
    stored = only_image(sqlite_parts)
    assert (stored.key, stored.status) == (image.key, ImageStatus.STORED)


def test_an_image_whose_decoder_was_told_to_end_is_kept_for_the_next_worker(
    sqlite_parts: Services, host: Site
) -> None:
    url = host.serve("/a", noisy_png(2000))
    task = make_task(sqlite_parts)
    deliver(sqlite_parts, task, success(url))
    with signalled(signal.SIGTERM):
        fail_next(sqlite_parts, Kind.STORE_IMAGE)
    host.replies["/a"] = Answer(410)

    run_next(sqlite_parts, Kind.STORE_IMAGE)
    assert get_task(sqlite_parts, task.id).status is TaskStatus.SUCCEEDED


def test_base64_need_not_be_put_aside(sqlite_parts: Services) -> None:
    encoded = base64.b64encode(noisy_png(100)).decode()
    deliver(sqlite_parts, make_task(sqlite_parts), {"data": [{"b64_json": encoded}]})
    fail_next(with_storage_down(sqlite_parts), Kind.STORE_IMAGE)
    image = only_image(sqlite_parts)
    assert (image.spooled, count(sqlite_parts.db, Chunk)) == (False, 0)
    # As a worker leaves it that is killed while it puts bytes aside.
    with sqlite_parts.db.transaction() as session:
        bodies.write_chunk(session, image.id, 0, b"left")
    run_next(sqlite_parts, Kind.STORE_IMAGE)
    assert only_image(sqlite_parts).status is ImageStatus.STORED
    assert count(sqlite_parts.db, Chunk) == 0


def test_what_was_put_aside_is_judged_like_everything_else(
    sqlite_parts: Services, host: Site
) -> None:
    deliver(sqlite_parts, make_task(sqlite_parts), success(host.serve("/a", png(100, 100))))
    fail_next(with_storage_down(sqlite_parts), Kind.STORE_IMAGE)
    fail_next(reconfigured(sqlite_parts, max_image_pixels=5), Kind.STORE_IMAGE)
    assert only_image(sqlite_parts).error_code == "too_many_pixels"


def test_one_image_of_several_is_enough_and_the_last_one_ends_the_task(
    parts: Services, host: Site
) -> None:
    urls = [host.serve("/bad", b"no image"), host.serve("/good", png())]
    task = make_task(parts)
    deliver(parts, task, success(*urls))
    fail_next(parts, Kind.STORE_IMAGE)
    assert get_task(parts, task.id).status is TaskStatus.RECEIVED
    run_next(parts, Kind.STORE_IMAGE)

    task = get_task(parts, task.id)
    assert (task.status, task.error_code) == (TaskStatus.SUCCEEDED, None)
    statuses = [image.status for image in images_of(parts, task)]
    assert statuses == [ImageStatus.FAILED, ImageStatus.STORED]
    assert timeline(parts, task)[-3:] == ["image_failed", "image_stored", "succeeded"]


def test_a_task_whose_images_all_failed_has_the_first_ones_code(
    sqlite_parts: Services, host: Site
) -> None:
    urls = [host.serve("/cut", png(64, 64)[:-20]), host.serve("/html", b"<html>")]
    task = make_task(sqlite_parts)
    deliver(sqlite_parts, task, success(*urls))
    for _ in range(2):
        fail_next(sqlite_parts, Kind.STORE_IMAGE)

    task = get_task(sqlite_parts, task.id)
    assert (task.status, task.error_code) == (TaskStatus.FAILED, "truncated_image")
    assert timeline(sqlite_parts, task).count("failed") == 1


def stored_but_not_concluded(
    parts: Services, host: Site, task: Task, count: int
) -> list[tuple[Job, jobs.Conclusion | None]]:
    """Images of `task` that are in storage while nobody has written that down yet."""
    urls = [host.serve(f"/{number}", png(colour="blue")) for number in range(count)]
    deliver(parts, task, success(*urls))
    claimed = [claim(parts, Kind.STORE_IMAGE) for _ in range(count)]
    return [(job, images.store(parts, job)) for job in claimed]


def test_when_the_last_images_finish_at_the_same_time_the_task_ends_once(
    parts: Services, host: Site
) -> None:
    task = make_task(parts)
    done = stored_but_not_concluded(parts, host, task, 3)

    at_once(*[partial(conclude, parts, *each) for each in done])

    assert get_task(parts, task.id).status is TaskStatus.SUCCEEDED
    assert timeline(parts, task).count("succeeded") == 1
    with parts.db.reading() as session:
        stored = session.scalars(select(Event.detail).filter_by(event="image_stored"))
        assert sorted(detail["index"] for detail in stored) == [0, 1, 2]


def test_neither_of_two_last_images_believes_that_the_other_one_is_last(
    postgres_parts: Services, host: Site
) -> None:
    parts = postgres_parts
    task = make_task(parts)
    (job, conclusion), other = stored_but_not_concluded(parts, host, task, 2)
    thread = threading.Thread(target=conclude, args=(parts, *other))
    with parts.db.transaction() as session:
        jobs.finish(session, job)
        assert conclusion
        conclusion(session)
        session.flush()
        thread.start()
        eventually(lambda: somebody_waits(parts) or not thread.is_alive())
    thread.join()

    assert get_task(parts, task.id).status is TaskStatus.SUCCEEDED
    assert timeline(parts, task).count("succeeded") == 1


def test_an_image_that_is_stored_already_or_was_replaced_is_left_alone(
    parts: Services, host: Site
) -> None:
    task = make_task(parts)
    (image,) = deliver(parts, task, success(host.serve("/a", png())))
    job = claim(parts, Kind.STORE_IMAGE)
    conclude(parts, job, images.store(parts, job))
    for replaced in (False, True):
        with parts.db.transaction() as session:
            jobs.enqueue(session, jobs.New(Kind.STORE_IMAGE, task.id, image.id))
            if replaced:
                session.get_one(Image, image.id).status = ImageStatus.PENDING
        job = claim(parts, Kind.STORE_IMAGE)
        conclusion = images.store(parts, job)
        if replaced:
            with parts.db.transaction() as session:
                session.delete(session.merge(image))
        conclude(parts, job, conclusion)

    assert len(host.asked("/a")) == 2
    assert timeline(parts, task).count("image_stored") == 1


def test_no_transaction_is_open_while_an_image_is_fetched(
    sqlite_parts: Services, host: Site
) -> None:
    def reply(_: Asked) -> Answer:
        # This would wait for ten seconds if the worker held SQLite's lock.
        began = time.monotonic()
        make_task(sqlite_parts)
        assert time.monotonic() - began < 5
        return Answer(body=png())

    host.replies["/a"] = reply
    deliver(sqlite_parts, make_task(sqlite_parts), success(f"{host.url}/a"))
    run_next(sqlite_parts, Kind.STORE_IMAGE)
    assert only_image(sqlite_parts).status is ImageStatus.STORED

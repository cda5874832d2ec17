"""The images at the caller's URLs, fetched through the guard for a provider that wants files."""

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import BinaryIO

from sqlalchemy import select

from app.edits import task_id_of
from app.errors import ImageError, InvalidFieldError, OutboundError
from app.jobs import Job
from app.models import Input, Task, TaskStatus
from app.outbound import Limits
from app.providers.base import File
from app.providers.rules import ImageFiles, facts_of
from app.scratch import scratch, write
from app.services import Services
from app.uploads import reopened
from app.wire import Request

REDIRECTS = 3
# For all images of an edit: while it waits for them it keeps one of the provider's few places.
FETCH_SECONDS = 120.0
PASSING_STATUSES = frozenset({408, 425, 429})


@dataclass(frozen=True)
class _Allowance:
    """The time that all images of an edit have together, and when it is over."""

    seconds: float
    until: float


@contextmanager
def at_hand(
    services: Services, job: Job, inputs: Sequence[Input], *, seconds: float = FETCH_SECONDS
) -> Iterator[tuple[File, ...] | None]:
    """The linked ones of `inputs` as files to send, on this machine's disk until the block ends.

    All together they may take `seconds`.  None when the task is not to be sent any more: then the rest
    was not fetched.  Raises `ImageError` for one that cannot be had, and `InvalidFieldError` for one
    that the provider does not take; nothing was sent then.
    """
    rules = services.providers[str(job.provider)].rules.files
    allowance = _Allowance(seconds, time.monotonic() + seconds)
    linked = [row for row in inputs if row.source_url]
    files: list[File] = []
    with ExitStack() as stack:
        for row in linked:
            if not _is_queued(services, job):
                break
            files.append(_fetch(services, row, rules[row.role], allowance, stack))
        yield tuple(files) if len(files) == len(linked) else None


def _is_queued(services: Services, job: Job) -> bool:
    """Whether nobody has canceled the task and its deadline has not passed."""
    with services.db.reading() as session:
        status = session.scalar(select(Task.status).filter_by(id=task_id_of(job)))
    return status is TaskStatus.QUEUED


def _fetch(
    services: Services, row: Input, rule: ImageFiles, allowance: _Allowance, stack: ExitStack
) -> File:
    file = stack.enter_context(scratch())
    limits = Limits(total=allowance.until - time.monotonic(), bytes=rule.largest)
    try:
        _download(services, str(row.source_url), limits, file)
        facts = facts_of(file, file.tell())
        rule.check(row.role, {row.role: [facts]})
    except (OutboundError, ImageError) as error:
        message = f"{_named(row)}: {error}"
        if time.monotonic() >= allowance.until:
            message += f"; all images of an edit have {allowance.seconds:g} s together"
        raise ImageError(message, code=error.code, permanent=error.permanent) from None
    except InvalidFieldError as error:
        raise InvalidFieldError(error.param, f"{_named(row)}: {error}") from None
    form = facts.header.format if facts.header else "bin"
    name = f"{row.role}-{row.index}.{form}"
    return File(row.role, name, f"image/{form}", facts.size, partial(reopened, file))


def _download(services: Services, url: str, limits: Limits, file: BinaryIO) -> None:
    hosts = services.config.image_hosts
    with services.outbound.stream(
        Request("GET", url), limits, redirects=REDIRECTS, hosts=hosts
    ) as response:
        if response.status != 200:
            passing = response.status >= 500 or response.status in PASSING_STATUSES
            raise ImageError(
                f"its host answered {response.status}",
                code="image_unavailable",
                permanent=not passing,
            )
        for piece in response:
            write(file, piece)


def _named(row: Input) -> str:
    return f"{row.role} {row.index + 1}"

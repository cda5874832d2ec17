"""The images at the caller's URLs, fetched through the guard for a provider that wants files."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import BinaryIO

from app.errors import ImageError, InvalidFieldError, OutboundError
from app.jobs import Job
from app.models import Input
from app.outbound import Limits
from app.providers.base import File
from app.providers.rules import ImageFiles, facts_of
from app.scratch import scratch, write
from app.services import Services
from app.uploads import reopened
from app.wire import Request

REDIRECTS = 3
FETCH_SECONDS = 120.0
PASSING_STATUSES = frozenset({408, 425, 429})


@contextmanager
def at_hand(services: Services, job: Job, inputs: Sequence[Input]) -> Iterator[tuple[File, ...]]:
    """The linked ones of `inputs` as files to send, on this machine's disk until the block ends.

    Raises `ImageError` for one that cannot be had, and `InvalidFieldError` for one that the provider
    does not take; nothing was sent then.
    """
    rules = services.providers[str(job.provider)].rules.files
    with ExitStack() as stack:
        yield tuple(
            _fetch(services, row, rules[row.role], stack) for row in inputs if row.source_url
        )


def _fetch(services: Services, row: Input, rule: ImageFiles, stack: ExitStack) -> File:
    file = stack.enter_context(scratch())
    try:
        _download(services, str(row.source_url), rule.largest, file)
        facts = facts_of(file, file.tell())
        rule.check(row.role, {row.role: [facts]})
    except (OutboundError, ImageError) as error:
        raise ImageError(
            f"{_named(row)}: {error}", code=error.code, permanent=error.permanent
        ) from None
    except InvalidFieldError as error:
        raise InvalidFieldError(error.param, f"{_named(row)}: {error}") from None
    form = facts.header.format if facts.header else "bin"
    name = f"{row.role}-{row.index}.{form}"
    return File(row.role, name, f"image/{form}", facts.size, partial(reopened, file))


def _download(services: Services, url: str, largest: int, file: BinaryIO) -> None:
    limits = Limits(total=FETCH_SECONDS, bytes=largest)
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

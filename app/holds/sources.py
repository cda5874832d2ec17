"""The images at the caller's URLs, fetched through the guard for a provider that wants files."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from app.errors import ImageError, InvalidFieldError, OutboundError
from app.jobs import Job
from app.models import Input
from app.outbound import Limits
from app.providers.base import File
from app.providers.rules import ImageFiles, facts_of
from app.services import Services
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
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="postback-")))
        yield tuple(
            _fetch(services, row, rules[row.role], folder) for row in inputs if row.source_url
        )


def _fetch(services: Services, row: Input, rule: ImageFiles, folder: Path) -> File:
    path = folder / f"{row.role}-{row.index}"
    try:
        _download(services, str(row.source_url), rule.largest, path)
        with path.open("rb") as file:
            facts = facts_of(file, path.stat().st_size)
        rule.check(row.role, {row.role: [facts]})
    except (OutboundError, ImageError) as error:
        raise ImageError(
            f"{_named(row)}: {error}", code=error.code, permanent=error.permanent
        ) from None
    except InvalidFieldError as error:
        raise InvalidFieldError(error.param, f"{_named(row)}: {error}") from None
    form = facts.header.format if facts.header else "bin"
    name = f"{path.name}.{form}"
    return File(row.role, name, f"image/{form}", facts.size, lambda: path.open("rb"))


def _download(services: Services, url: str, largest: int, path: Path) -> None:
    limits = Limits(total=FETCH_SECONDS, bytes=largest)
    hosts = services.config.image_hosts
    with (
        services.outbound.stream(
            Request("GET", url), limits, redirects=REDIRECTS, hosts=hosts
        ) as response,
        path.open("wb") as file,
    ):
        if response.status != 200:
            passing = response.status >= 500 or response.status in PASSING_STATUSES
            raise ImageError(
                f"its host answered {response.status}",
                code="image_unavailable",
                permanent=not passing,
            )
        for piece in response:
            file.write(piece)


def _named(row: Input) -> str:
    return f"{row.role} {row.index + 1}"

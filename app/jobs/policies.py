"""What kinds of jobs there are, how each is run, and what a failure leads to."""

import random
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from app.db import is_outage
from app.errors import PostbackError

WORK_QUEUE = "work"
# Images have one of their own: a slow image host must not hold up results, lookups and deadlines.
IMAGE_QUEUE = "images"
# Trouble with our own parts is nobody's fault: wait this long, however often it happens.
OUTAGE_SECONDS = 5.0


class Kind(StrEnum):
    """What there is to do."""

    SUBMIT = "submit"
    INGEST = "ingest"
    COMPACT = "compact"
    STORE_IMAGE = "store_image"
    RECONCILE = "reconcile"
    EXPIRE = "expire"
    PURGE = "purge"


class OnLost(StrEnum):
    """What happens to a job whose worker went silent: do it again, or find out what became of it."""

    RETRY = "retry"
    RECONCILE = "reconcile"


@dataclass(frozen=True)
class Policy:
    """How jobs of one kind are run.

    `tries` failures that count end the job; the pause after the n-th is `pause * 2**(n-1)` seconds, at
    most `longest_pause`, and up to a second of jitter.  Jobs of one `queue` share a worker's places;
    `per_provider` gives the kind a queue for each provider, and limits how many run at once over all
    workers.  `every` makes the kind periodic, in seconds; `for_each_provider`, with one job each.
    """

    on_lost: OnLost = OnLost.RETRY
    tries: int = 10
    pause: float = 1.0
    longest_pause: float = 120.0
    queue: str = WORK_QUEUE
    per_provider: bool = False
    every: float | None = None
    for_each_provider: bool = False


POLICIES = {
    # The pauses are those of acedata's error document: 1, 2, 4, 8, 16 s.
    Kind.SUBMIT: Policy(on_lost=OnLost.RECONCILE, tries=6, longest_pause=16.0, per_provider=True),
    Kind.INGEST: Policy(),
    Kind.COMPACT: Policy(),
    Kind.STORE_IMAGE: Policy(queue=IMAGE_QUEUE),
    Kind.RECONCILE: Policy(every=1.0, for_each_provider=True),
    Kind.EXPIRE: Policy(every=1.0),
    Kind.PURGE: Policy(every=3600.0),
}


def queue_of(kind: Kind, provider: str | None) -> str:
    """The queue that a job goes to."""
    policy = POLICIES[kind]
    return f"{kind}:{provider}" if policy.per_provider else policy.queue


def limited_queues(providers: Iterable[str]) -> list[str]:
    """The queues with a limit on how many jobs run at once, over all workers."""
    kinds = [kind for kind, policy in POLICIES.items() if policy.per_provider]
    return [queue_of(kind, provider) for kind in kinds for provider in providers]


@dataclass(frozen=True)
class Retry:
    """Do it again in `seconds`; `counts` is whether this failure uses up a try."""

    seconds: float
    counts: bool


def decide(policy: Policy, failures: int, error: BaseException) -> Retry | None:
    """Whether a job that failed is tried again, or None; `failures` are those that counted before."""
    known = error if isinstance(error, PostbackError) else PostbackError("unexpected error")
    if known.permanent:
        return None
    if is_outage(error) or not known.counts:
        return Retry(OUTAGE_SECONDS * random.uniform(0.8, 1.2), counts=False)
    if policy.every is not None:
        return Retry(policy.every, counts=False)
    if failures + 1 >= policy.tries:
        return None
    pause = min(policy.pause * 2**failures, policy.longest_pause) + random.random()
    return Retry(max(pause, known.retry_after or 0), counts=True)

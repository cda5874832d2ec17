"""What kinds of jobs there are, how each is run, and what a failure leads to."""

import random
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
    HOLD = "hold"
    INGEST = "ingest"
    COMPACT = "compact"
    STORE_IMAGE = "store_image"
    RECONCILE = "reconcile"
    EXPIRE = "expire"
    PURGE = "purge"
    DELIVER = "deliver"


class OnLost(StrEnum):
    """What happens to a job whose worker went silent: do it again, or find out what became of it."""

    RETRY = "retry"
    RECONCILE = "reconcile"


@dataclass(frozen=True)
class Policy:
    """How jobs of one kind are run.

    `tries` failures that count end the job; the pause after the n-th is `pause * 2**(n-1)` seconds, at
    most `longest_pause`, and up to a second of jitter.  Jobs of one `queue` share a worker's places;
    None gives the kind queues of its own: one for each provider, or whatever else its calls go to, so
    that who hangs or fails holds up nobody else.  A worker that shall end waits for jobs that are
    `patient` for as long as it is left alive: an end in the middle costs money.  `every` makes the kind
    periodic, in seconds, with one job, or one for each provider.  After trouble with our own parts,
    which uses up no try, a job waits for `outage_pause` seconds.
    """

    on_lost: OnLost = OnLost.RETRY
    tries: int = 10
    pause: float = 1.0
    longest_pause: float = 120.0
    queue: str | None = WORK_QUEUE
    patient: bool = False
    every: float | None = None
    outage_pause: float = OUTAGE_SECONDS


POLICIES = {
    # The pauses are those of acedata's error document: 1, 2, 4, 8, 16 s.
    Kind.SUBMIT: Policy(on_lost=OnLost.RECONCILE, tries=6, longest_pause=16.0, queue=None),
    # The same for providers that keep us waiting for the result: a call takes minutes.
    Kind.HOLD: Policy(
        on_lost=OnLost.RECONCILE, tries=6, longest_pause=16.0, queue=None, patient=True
    ),
    Kind.INGEST: Policy(),
    Kind.COMPACT: Policy(),
    Kind.STORE_IMAGE: Policy(queue=IMAGE_QUEUE),
    Kind.RECONCILE: Policy(every=1.0, queue=None),
    Kind.EXPIRE: Policy(every=1.0),
    Kind.PURGE: Policy(every=3600.0, outage_pause=300.0),
    # When a delivery that was refused is tried again, its handler says.
    Kind.DELIVER: Policy(queue=None, outage_pause=1.0),
}


def queue_of(kind: Kind, whom: str | None) -> str:
    """The queue that a job goes to; `whom` it calls counts where the kind has a queue for each."""
    return POLICIES[kind].queue or f"{kind}:{whom}"


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
        return Retry(policy.outage_pause * random.uniform(0.8, 1.2), counts=False)
    if policy.every is not None:
        return Retry(policy.every, counts=False)
    if failures + 1 >= policy.tries:
        return None
    pause = min(policy.pause * 2**failures, policy.longest_pause) + random.random()
    return Retry(max(pause, known.retry_after or 0), counts=True)

"""Work to do: a table of jobs that any number of workers share.

A claim sets a random token and moves `due_at` to the end of the lease.  Whoever finishes must still
hold that token, so a worker that was stopped for longer than its lease cannot write over the one that
took over.  All times are the database's.
"""

from app.jobs.claims import Due, Terms, claim, due_queues
from app.jobs.lanes import Places, lane_of, places
from app.jobs.policies import (
    IMAGE_QUEUE,
    POLICIES,
    WORK_QUEUE,
    Kind,
    OnLost,
    Policy,
    Retry,
    decide,
    queue_of,
)
from app.jobs.pulse import Pulse
from app.jobs.queue import (
    CHANNEL,
    Again,
    Conclusion,
    Ending,
    Job,
    Lease,
    New,
    enqueue,
    ensure_held,
    ensure_periodic,
    finish,
    release,
    renew,
    retry,
)
from app.jobs.rates import Rate
from app.jobs.shares import Shares

__all__ = [
    "CHANNEL",
    "IMAGE_QUEUE",
    "POLICIES",
    "WORK_QUEUE",
    "Again",
    "Conclusion",
    "Due",
    "Ending",
    "Job",
    "Kind",
    "Lease",
    "New",
    "OnLost",
    "Places",
    "Policy",
    "Pulse",
    "Rate",
    "Retry",
    "Shares",
    "Terms",
    "claim",
    "decide",
    "due_queues",
    "enqueue",
    "ensure_held",
    "ensure_periodic",
    "finish",
    "lane_of",
    "places",
    "queue_of",
    "release",
    "renew",
    "retry",
]

"""Work to do: a table of jobs that any number of workers share.

A claim sets a random token and moves `due_at` to the end of the lease.  Whoever finishes must still
hold that token, so a worker that was stopped for longer than its lease cannot write over the one that
took over.  All times are the database's.
"""

from app.jobs.policies import (
    IMAGE_QUEUE,
    POLICIES,
    WORK_QUEUE,
    Kind,
    OnLost,
    Policy,
    Retry,
    decide,
    limited_queues,
    queue_of,
)
from app.jobs.queue import (
    CHANNEL,
    Conclusion,
    Job,
    Lease,
    New,
    claim,
    due_queues,
    enqueue,
    ensure_held,
    ensure_periodic,
    finish,
    release,
    renew,
    retry,
)

__all__ = [
    "CHANNEL",
    "IMAGE_QUEUE",
    "POLICIES",
    "WORK_QUEUE",
    "Conclusion",
    "Job",
    "Kind",
    "Lease",
    "New",
    "OnLost",
    "Policy",
    "Retry",
    "claim",
    "decide",
    "due_queues",
    "enqueue",
    "ensure_held",
    "ensure_periodic",
    "finish",
    "limited_queues",
    "queue_of",
    "release",
    "renew",
    "retry",
]

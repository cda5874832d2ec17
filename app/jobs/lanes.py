"""How many jobs run at once, in each lane: the work, the images, the calls to each provider ..."""

from collections.abc import Mapping
from dataclasses import dataclass

from app.config import Config
from app.jobs.policies import IMAGE_QUEUE, WORK_QUEUE, Kind
from app.jobs.rates import Rate

# A subscriber may take 15 s for each call, and there may be many that do.
DELIVERIES_TO_ONE = 4
DELIVERIES = 32


@dataclass(frozen=True)
class Places:
    """How many jobs run at once: `here` those of one queue in one worker, `together` those of all
    queues of the lane in one worker, but for those that hang, `everywhere` those of one queue over all
    workers; and how many of one queue may begin in a second, over all workers.
    """

    here: int
    together: int | None = None
    everywhere: int | None = None
    rate: Rate | None = None


def places(config: Config) -> Mapping[str, Places]:
    """The places of each lane."""
    concurrency, rate = config.provider_concurrency, config.provider_rate
    calls = Places(concurrency, everywhere=concurrency, rate=Rate(rate) if rate else None)
    return {
        WORK_QUEUE: Places(config.worker_concurrency),
        IMAGE_QUEUE: Places(config.worker_concurrency),
        Kind.SUBMIT: calls,
        Kind.HOLD: calls,
        Kind.RECONCILE: Places(1),
        Kind.DELIVER: Places(DELIVERIES_TO_ONE, together=DELIVERIES),
    }


def lane_of(queue: str) -> str:
    """What queues have in common that a kind has for each of whom it calls; else the queue itself."""
    return queue.partition(":")[0]

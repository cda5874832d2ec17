"""What a worker is at, and how much more of each queue it may begin: who hangs keeps nobody waiting."""

import random
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from math import ceil

from app.jobs.claims import Due
from app.jobs.lanes import Places, lane_of
from app.jobs.queue import Job

# For so long a job counts among those that share a lane's places; who takes longer just hangs.
PLACE_SECONDS = 1.0
# How many queues that do well are remembered.
REMEMBERED = 10_000


class Shares:
    """The jobs that are held, and by that the places that are free.

    Where queues share places (`Places.together`), one is given a single place until a job of it was
    done, and again when one was not or hangs.  So the others' places stay free.
    """

    def __init__(self, places: Mapping[str, Places]) -> None:
        self._places = places
        self._begun: dict[Job, float] = {}
        self._well: set[str] = set()

    @property
    def held(self) -> list[Job]:
        """The jobs that are held now."""
        # In one step, for other threads hold and drop meanwhile.
        return list(self._begun)

    def hold(self, job: Job) -> None:
        """It begins."""
        self._begun[job] = time.monotonic()

    def drop(self, job: Job) -> None:
        """It is held no longer."""
        self._begun.pop(job, None)

    def judge(self, job: Job, *, done: bool) -> None:
        """Remember whether a job was `done`, or has to run again."""
        if not done:
            self._well.discard(job.queue)
            return
        if len(self._well) >= REMEMBERED:
            self._well.clear()
        self._well.add(job.queue)

    def give_out(self, lane: str, due: Sequence[Due], claim: Callable[[Due, int], int]) -> None:
        """Let each of these queues have its share of the free places: `claim` says how many it took."""
        places = self._places[lane]
        begun = [(job.queue, at) for job, at in list(self._begun.items())]
        busy = Counter(queue for queue, _ in begun)
        late = time.monotonic() - PLACE_SECONDS
        well = self._well - {queue for queue, at in begun if at <= late}
        free = places.here * len(due)
        if places.together is not None:
            recent = sum(at > late for queue, at in begun if lane_of(queue) == lane)
            free = places.together - recent
        # Who does well goes first, then who has least, and among equals nobody always does.
        left = sorted(due, key=lambda e: (e.queue not in well, busy[e.queue], random.random()))
        while left:
            share = ceil(free / len(left))
            each = left.pop(0)
            most = places.here if places.together is None or each.queue in well else 1
            if (room := min(share, most - busy[each.queue])) > 0:
                free -= claim(each, room)

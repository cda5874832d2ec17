"""How often a worker renews its leases, and whether that went well enough to claim more."""

import time

from app.db import CONNECT_SECONDS, OUTAGE_PAUSE_SECONDS

LONGEST_PAUSE_SECONDS = 5.0
# Within this time after an outage every worker has tried to renew its leases.
SETTLING_SECONDS = CONNECT_SECONDS + OUTAGE_PAUSE_SECONDS


class Pulse:
    """The beats of one worker, each a time at which all of its leases were renewed.

    When the database was away, the leases of all workers ran out together.  Whoever claimed first
    would declare calls lost that another worker still holds, and somebody would pay twice.  So after
    a silence in which that may have happened, a worker renews its own, leaves the others the time to
    renew theirs, and only then claims.  A process that was stopped has been silent, too.
    """

    def __init__(self, lease_seconds: float) -> None:
        self.pause = min(lease_seconds / 3, LONGEST_PAUSE_SECONDS)
        # When the silence began, another worker's last beat may have been a pause ago.
        self._longest_silence = lease_seconds - self.pause
        self._beaten_at: float | None = None
        self._steady_from = 0.0

    def beat(self) -> None:
        """All leases were renewed just now; the next time is in `pause` seconds."""
        now = time.monotonic()
        if self._beaten_at is not None and self._silent(self._beaten_at, now):
            self._steady_from = now + SETTLING_SECONDS
        self._beaten_at = now

    @property
    def steady(self) -> bool:
        """Whether this worker may claim."""
        now, beaten_at = time.monotonic(), self._beaten_at
        if beaten_at is None or self._silent(beaten_at, now):
            return False
        return now >= self._steady_from

    def _silent(self, since: float, now: float) -> bool:
        return now - since >= self._longest_silence

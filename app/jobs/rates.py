"""How many calls a second may begin: a bucket of tokens, kept as the time of the next call."""

from dataclasses import dataclass
from datetime import datetime, timedelta

# What is lost where a time is rounded must not cost a call.
_ROUNDING = 1e-3


@dataclass(frozen=True)
class Rate:
    """`per_second` calls, of which at most a second's worth begins at once."""

    per_second: float

    def affordable(self, next_at: datetime | None, now: datetime) -> int:
        """How many calls may begin now, if the first of them might at `next_at`."""
        waited = (now - self._earliest(next_at, now)).total_seconds()
        return max(0, int(waited * self.per_second + 1 + _ROUNDING))

    def after(self, next_at: datetime | None, now: datetime, calls: int) -> datetime:
        """When the next call may begin, once `calls` have begun now."""
        return self._earliest(next_at, now) + timedelta(seconds=calls / self.per_second)

    def _earliest(self, next_at: datetime | None, now: datetime) -> datetime:
        at_once = max(1.0, self.per_second)
        earliest = now - timedelta(seconds=(at_once - 1) / self.per_second)
        return max(next_at, earliest) if next_at else earliest

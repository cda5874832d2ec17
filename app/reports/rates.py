"""What was counted within a window of whole hours: how often, how fast."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.counts import Stage, longest
from app.models import Latency, Tally


@dataclass
class Spread:
    """How long something took, over many times."""

    buckets: Counter[int] = field(default_factory=Counter)

    @property
    def count(self) -> int:
        """How many times."""
        return self.buckets.total()

    def quantile(self, share: float) -> float | None:
        """The seconds that this share of the times did not exceed, to about 15 %; None for no times."""
        rest = share * self.count
        for bucket, count in sorted(self.buckets.items()):
            if count and rest <= count:
                return longest(bucket - 1 + rest / count)
            rest -= count
        return None


@dataclass
class Figures:
    """What happened to tasks, and how long its stages took."""

    counts: Counter[str] = field(default_factory=Counter)
    stages: Mapping[Stage, Spread] = field(default_factory=lambda: {s: Spread() for s in Stage})

    @property
    def success_rate(self) -> float | None:
        """The share that succeeded, of what succeeded or failed."""
        ended = self.counts["succeeded"] + self.counts["failed"]
        return self.counts["succeeded"] / ended if ended else None


def figures_since(session: Session, since: datetime) -> Mapping[tuple[str, str], Figures]:
    """By provider and model (empty for none) what was counted since then, the beginning of an hour."""
    found: dict[tuple[str, str], Figures] = {}
    tallies = select(Tally.provider, Tally.model, Tally.event, func.sum(Tally.count))
    tallies = tallies.where(Tally.hour >= since).group_by(Tally.provider, Tally.model, Tally.event)
    for provider, model, event, count in session.execute(tallies):
        found.setdefault((provider, model), Figures()).counts[event] += int(count)
    for provider, model, stage, bucket, count in _latencies(session, since):
        figures = found.setdefault((provider, model), Figures())
        figures.stages[Stage(stage)].buckets[bucket] += count
    return dict(sorted(found.items()))


def total_since(session: Session, since: datetime) -> Figures:
    """All that was counted since then, the beginning of an hour, together."""
    total = Figures()
    tallies = select(Tally.event, func.sum(Tally.count)).where(Tally.hour >= since)
    for event, count in session.execute(tallies.group_by(Tally.event)):
        total.counts[event] = int(count)
    columns = (Latency.stage, Latency.bucket)
    latencies = select(*columns, func.sum(Latency.count)).where(Latency.hour >= since)
    for stage, bucket, count in session.execute(latencies.group_by(*columns)):
        total.stages[Stage(stage)].buckets[bucket] = int(count)
    return total


def summed(figures: Mapping[tuple[str, str], Figures]) -> Figures:
    """All of them together."""
    total = Figures()
    for each in figures.values():
        total.counts.update(each.counts)
        for stage, spread in each.stages.items():
            total.stages[stage].buckets.update(spread.buckets)
    return total


def _latencies(session: Session, since: datetime) -> Iterator[tuple[str, str, str, int, int]]:
    columns = (Latency.provider, Latency.model, Latency.stage, Latency.bucket)
    query = select(*columns, func.sum(Latency.count)).where(Latency.hour >= since)
    for provider, model, stage, bucket, count in session.execute(query.group_by(*columns)):
        yield provider, model, stage, bucket, int(count)

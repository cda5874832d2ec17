"""`/v1/stats`: counts, rates and latencies per provider and model."""

from datetime import timedelta
from typing import Any

from flask import Blueprint, jsonify, request
from flask.typing import ResponseReturnValue
from sqlalchemy import select

from app import reports
from app.columns import db_now
from app.config.values import duration
from app.counts import hour_of
from app.errors import InvalidFieldError
from app.models import Scope, TaskStatus
from app.reports import Figures, Spread, rfc3339
from app.web.auth import requires
from app.web.state import services

bp = Blueprint("stats", __name__, url_prefix="/v1")

DEFAULT_WINDOW = "24h"
# What was counted is kept for so long.
LONGEST_WINDOW = "400d"
HOUR_SECONDS = 3600.0

_QUANTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}

# Made, and from then on what the status became.
_COUNTED = ("created", *(status for status in TaskStatus if status is not TaskStatus.QUEUED))


@bp.get("/stats")
@requires(Scope.READ)
def stats() -> ResponseReturnValue:
    """What was counted within a window, which begins with a full hour: all together, and for each
    provider and model."""
    window = request.args.get("window") or DEFAULT_WINDOW
    seconds = _seconds(window)
    with services().db.reading() as session:
        until = session.scalars(select(db_now())).one()
        since = hour_of(until - timedelta(seconds=seconds))
        figures = reports.figures_since(session, since)
    hours = (until - since).total_seconds() / HOUR_SECONDS
    return jsonify(
        {
            "window": window,
            "since": rfc3339(since),
            "until": rfc3339(until),
            "total": _shown(reports.summed(figures), hours),
            "items": [
                {"provider": provider, "model": model or None, **_shown(each, hours)}
                for (provider, model), each in figures.items()
            ],
        }
    )


def _seconds(window: str) -> float:
    rule = f"expected a duration such as 1h, {DEFAULT_WINDOW} or 7d, at most {LONGEST_WINDOW}"
    try:
        seconds = duration(window)
    except ValueError:
        raise InvalidFieldError("window", f"window: {rule}, not {window!r}") from None
    if seconds > duration(LONGEST_WINDOW):
        raise InvalidFieldError("window", f"window: {rule}, not {window!r}")
    return seconds


def _shown(figures: Figures, hours: float) -> dict[str, Any]:
    return {
        "counts": {word: figures.counts[word] for word in _COUNTED},
        "rates": {
            "created_per_hour": round(figures.counts["created"] / hours, 3),
            "succeeded_per_hour": round(figures.counts["succeeded"] / hours, 3),
            # Of those that succeeded or failed.
            "success": figures.success_rate,
        },
        "latencies": {stage: _spread(spread) for stage, spread in figures.stages.items()},
    }


def _spread(spread: Spread) -> dict[str, float | None]:
    quantiles = {name: spread.quantile(share) for name, share in _QUANTILES.items()}
    return {
        "count": spread.count,
        **{name: seconds and round(seconds, 3) for name, seconds in quantiles.items()},
    }

"""`/v1/stats`: what was counted, and how a window is given."""

from datetime import datetime, timedelta

import pytest
from sqlalchemy import insert

from app.counts import Stage, bucket_of, hour_of
from app.models import Latency, Scope, Tally
from tests.web.sites import Site, error_of, json_of


def test_what_was_counted_is_told_for_each_provider_and_model_and_together(site: Site) -> None:
    until = datetime.fromisoformat(json_of(site.get("/v1/stats"))["until"])
    hour = hour_of(until)
    with site.parts.db.transaction() as session:
        for provider, model, event, count, ago in (
            ("acedata", "gpt-image-2", "created", 8, 0),
            ("acedata", "gpt-image-2", "succeeded", 3, 0),
            ("acedata", "gpt-image-2", "failed", 1, 1),
            ("acedata", "gpt-image-2", "failed", 5, 30),
            ("agcloud", "", "created", 2, 1),
        ):
            at = hour - timedelta(hours=ago)
            key = {"hour": at, "provider": provider, "model": model}
            session.execute(insert(Tally).values(**key, event=event, count=count))
        key = {"hour": hour, "provider": "acedata", "model": "gpt-image-2"}
        for seconds, times in ((10.0, 90), (60.0, 10)):
            timed = {"stage": Stage.PROVIDER, "bucket": bucket_of(seconds), "count": times}
            session.execute(insert(Latency).values(**key, **timed))

    seen = json_of(site.get("/v1/stats?window=23h", scope=Scope.READ))

    assert set(seen) == {"window", "since", "until", "total", "items"}
    hours = (
        datetime.fromisoformat(seen["until"]) - datetime.fromisoformat(seen["since"])
    ).total_seconds() / 3600
    assert 23 <= hours <= 24.1
    total, (image, none) = seen["total"], seen["items"]
    assert [(each["provider"], each["model"]) for each in (image, none)] == [
        ("acedata", "gpt-image-2"),
        ("agcloud", None),
    ]
    assert image["counts"] == {
        "created": 8,
        "submitted": 0,
        "uncertain": 0,
        "received": 0,
        "succeeded": 3,
        "failed": 1,
        "canceled": 0,
    }
    assert image["rates"]["success"] == 0.75
    assert image["rates"]["created_per_hour"] == pytest.approx(8 / hours, abs=0.01)
    assert none["rates"] == {
        "created_per_hour": pytest.approx(2 / hours, abs=0.01),
        "succeeded_per_hour": 0,
        "success": None,
    }
    assert (total["counts"]["created"], total["counts"]["failed"]) == (10, 1)
    spread = total["latencies"]["provider"]
    assert spread == image["latencies"]["provider"]
    # As exact as the buckets, which are 15 % wide.
    assert spread == {
        "count": 100,
        "p50": pytest.approx(10, rel=0.15),
        "p95": pytest.approx(60, rel=0.15),
        "p99": pytest.approx(60, rel=0.15),
    }
    empty = {"count": 0, "p50": None, "p95": None, "p99": None}
    assert none["latencies"] == {"provider": empty, "storing": empty, "total": empty}
    assert json_of(site.get("/v1/stats?window=7d"))["total"]["counts"]["failed"] == 6


@pytest.mark.parametrize(
    "window", ["day", "0", "-1h", "401d", "24 hours", "\x00", "9" * 400 + "d", "1h\n2h", "nan"]
)
def test_a_wrong_window_is_named_with_its_rule(sqlite_site: Site, window: str) -> None:
    error = error_of(sqlite_site.get("/v1/stats", query_string={"window": window}), 400)
    assert (error["code"], error["param"]) == ("bad_request", "window")
    rule = "window: expected a duration such as 1h, 24h or 7d, at most 400d, not "
    assert error["message"] == rule + repr(window)


def test_without_a_window_it_is_a_day_and_it_takes_the_scope_read(sqlite_site: Site) -> None:
    assert json_of(sqlite_site.get("/v1/stats?window="))["window"] == "24h"
    error_of(sqlite_site.get("/v1/stats", scope=Scope.SUBMIT), 403)

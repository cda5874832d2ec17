"""What comes in a query string: each bad value is named with its rule."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from uuid import UUID

import pytest
from flask import Flask

from app.errors import InvalidFieldError
from app.models import Verdict
from app.web import parameters


@contextmanager
def asked(query: str) -> Iterator[None]:
    """Inside the block, a request with this query string is being answered."""
    with Flask("test").test_request_context(f"/?{query}"):
        yield


def test_a_limit_is_a_whole_number() -> None:
    for given, limit in (("1", 1), ("100", 100), ("007", 7), ("٣", 3)):
        with asked(f"limit={given}"):
            assert parameters.limit() == limit
    for given in ("0", "101", "-1", "1.5", "1e1", "%20", "ten", "9" * 5000, "²"):
        with asked(f"limit={given}"), pytest.raises(InvalidFieldError, match="from 1 to 100, not"):
            parameters.limit()


def test_a_word_is_spelled_in_one_way_and_a_uuid_as_python_reads_it() -> None:
    with asked("verdict=conflict"):
        assert parameters.word("verdict", Verdict) is Verdict.CONFLICT
    with asked("verdict=Conflict"), pytest.raises(InvalidFieldError, match="not 'Conflict'"):
        parameters.word("verdict", Verdict)
    id_ = UUID("01a1f8e6-0aad-733b-9b40-05843736504a")
    for spelling in (str(id_), id_.hex, str(id_).upper()):
        with asked(f"cursor={spelling}"):
            assert parameters.uuid("cursor") == id_


@pytest.mark.parametrize(
    ("given", "at"),
    [
        ("2026-11-20T08:31:26.577Z", datetime(2026, 11, 20, 8, 31, 26, 577_000, UTC)),
        ("2026-11-20t08:31:26z", datetime(2026, 11, 20, 8, 31, 26, 0, UTC)),
        ("2026-11-20T08:31", datetime(2026, 11, 20, 8, 31, 0, 0, UTC)),
        ("2026-11-20", datetime(2026, 11, 20, 0, 0, 0, 0, UTC)),
        ("2026-11-20T08:31:00%2B02:00", datetime(2026, 11, 20, 6, 31, 0, 0, UTC)),
        # As it arrives when nobody has escaped the plus sign.
        ("2026-11-20T08:31:00+02:00", datetime(2026, 11, 20, 6, 31, 0, 0, UTC)),
        ("2026-11-20T08:31:00-02:00", datetime(2026, 11, 20, 10, 31, 0, 0, UTC)),
        ("9999-12-31T23:59:59Z", datetime(9999, 12, 31, 23, 59, 59, 0, UTC)),
    ],
)
def test_a_time_without_an_offset_is_utc(given: str, at: datetime) -> None:
    with asked(f"created_after={given}"):
        assert parameters.time("created_after") == at


@pytest.mark.parametrize(
    "given",
    ["now", "1700000000", "2026-02-30", "2026-11-20T25:00", "0001-01-01", "1970-12-31", "%00"],
)
def test_a_wrong_time_names_the_rule(given: str) -> None:
    with asked(f"created_after={given}"), pytest.raises(InvalidFieldError) as caught:
        parameters.time("created_after")
    assert caught.value.param == "created_after"
    assert "expected a time such as 2026-11-20T08:31:26.577Z" in str(caught.value)

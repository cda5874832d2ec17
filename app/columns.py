"""Column types and the database's clock: the same on SQLite and PostgreSQL."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import BigInteger, DateTime, Dialect, Integer, Text, bindparam
from sqlalchemy.dialects.postgresql import TSVECTOR
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import Float, TypeDecorator, TypeEngine

# SQLite counts rows up by itself only in a column that is declared INTEGER.
BigSerial = BigInteger().with_variant(Integer, "sqlite")


class UTCDateTime(TypeDecorator[datetime]):
    """An aware time in UTC; SQLite, which knows none, keeps it as text that sorts."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Take an aware time; a naive one is a mistake of the caller."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"{value!r} has no time zone")
        value = value.astimezone(UTC)
        return value.replace(tzinfo=None) if dialect.name == "sqlite" else value

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Give an aware time in UTC."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if dialect.name == "sqlite" else value.astimezone(UTC)


class CleanText(TypeDecorator[str]):
    """Text from outside: NUL and lone surrogates, which no database stores, become U+FFFD."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        """Take any string."""
        del dialect
        return None if value is None else clean(value)


class WordSet(TypeDecorator[Sequence[str]]):
    """Words without blanks and quotes, to be searched: a `tsvector`, or text with a blank before each."""

    impl = Text
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """What PostgreSQL searches is no text."""
        return dialect.type_descriptor(TSVECTOR() if dialect.name == "postgresql" else Text())

    def process_bind_param(self, value: Sequence[str] | None, dialect: Dialect) -> str | None:
        """Take a list of words."""
        if value is None:
            return None
        quote = "'" if dialect.name == "postgresql" else ""
        return "".join(f" {quote}{word}{quote}" for word in value)


def clean(value: str) -> str:
    """`value` with U+FFFD where it has NUL or a lone surrogate."""
    replaced = value.replace("\x00", "\ufffd")
    return replaced.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


class db_now(FunctionElement[datetime]):  # noqa: N801 - reads as the SQL function it is
    """The database's clock, `seconds` from now: workers' clocks may differ, this one does not."""

    type = UTCDateTime()
    inherit_cache = True
    name = "db_now"

    def __init__(self, seconds: float = 0) -> None:
        super().__init__(bindparam(None, float(seconds), type_=Float()))


@compiles(db_now, "postgresql")
def _on_postgresql(element: db_now, compiler: SQLCompiler, **kwargs: Any) -> str:
    seconds = compiler.process(element.clauses, **kwargs)
    # Unlike clock_timestamp(), constant within a statement, so that an index can be searched for it.
    return f"(statement_timestamp() + make_interval(secs => {seconds}))"


@compiles(db_now, "sqlite")
def _on_sqlite(element: db_now, compiler: SQLCompiler, **kwargs: Any) -> str:
    seconds = compiler.process(element.clauses, **kwargs)
    # '%f' has three decimals, and SQLAlchemy stores six: the same text for the same time.
    return f"(strftime('%Y-%m-%d %H:%M:%f', 'now', {seconds} || ' seconds') || '000')"


class transaction_number(FunctionElement[int]):  # noqa: N801 - reads as the SQL function it is
    """The number of the transaction that writes; SQLite, with one writer at a time, needs none."""

    type = BigInteger()
    inherit_cache = True
    name = "transaction_number"


@compiles(transaction_number, "postgresql")
def _number_on_postgresql(element: transaction_number, compiler: SQLCompiler, **kwargs: Any) -> str:
    del element, compiler, kwargs
    return "pg_current_xact_id()::text::bigint"


@compiles(transaction_number, "sqlite")
def _number_on_sqlite(element: transaction_number, compiler: SQLCompiler, **kwargs: Any) -> str:
    del element, compiler, kwargs
    return "0"


class settled_before(FunctionElement[int]):  # noqa: N801 - reads as the SQL function it is
    """All transactions with a lower number have ended: what they wrote is there, or never will be."""

    type = BigInteger()
    inherit_cache = True
    name = "settled_before"


@compiles(settled_before, "postgresql")
def _settled_on_postgresql(element: settled_before, compiler: SQLCompiler, **kwargs: Any) -> str:
    del element, compiler, kwargs
    return "(SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint)"


@compiles(settled_before, "sqlite")
def _settled_on_sqlite(element: settled_before, compiler: SQLCompiler, **kwargs: Any) -> str:
    del element, compiler, kwargs
    return "1"

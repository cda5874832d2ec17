"""Many rows in one statement, and many statements in one round trip.

On PostgreSQL the rows are arrays, and the statements of `together` are one.  A loop would cost a
statement for each row, a statement that spells all values out is compiled and planned anew for each
number of rows.  SQLite has no round trips, and loops over a prepared statement.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, NamedTuple

from sqlalchemy import (
    JSON,
    Column,
    ColumnElement,
    Delete,
    Dialect,
    Insert,
    Table,
    Text,
    TextClause,
    TypeDecorator,
    Update,
    bindparam,
    column,
    func,
    insert,
    literal,
    null,
    select,
)
from sqlalchemy import cast as sql_cast
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Session
from sqlalchemy.sql.schema import ColumnElementColumnDefault, ScalarElementColumnDefault
from sqlalchemy.types import TypeEngine

Rows = Sequence[Mapping[str, Any]]
# The expressions that stand for a row's values, by name.
Given = Mapping[str, ColumnElement[Any]]
# A function of a module, not one made anew for each call: what it gives is kept.
Build = Callable[..., Insert | Update | Delete]


class _Part(NamedTuple):
    build: Build
    table: Table
    names: tuple[str, ...]
    same: tuple[tuple[str, Any], ...]


def among(column: ColumnElement[Any], name: str, dialect: str) -> ColumnElement[bool]:
    """Whether `column` is one of the values in the parameter `name`, a list of any length."""
    if dialect == "postgresql":
        # One text for all lengths, which is compiled and planned once.
        return column == func.any(bindparam(name, type_=ARRAY(column.type)))
    return column.in_(bindparam(name, type_=column.type, expanding=True))


def upsert(session: Session, table: Any) -> postgresql.Insert | sqlite.Insert:
    """An INSERT that can say what happens to a row that is there already; both databases say it alike."""
    postgres = session.get_bind().dialect.name == "postgresql"
    return postgresql.insert(table) if postgres else sqlite.insert(table)


def insert_all(session: Session, table: Table, rows: Rows) -> None:
    """Insert `rows`, all with the same columns."""
    for_each(session, table, rows, insertion)


def for_each(session: Session, table: Table, rows: Rows, build: Build, **same: Any) -> None:
    """Execute for each of `rows` what `build(table, given, **same)` makes of its values.

    The names and types of the values are those of `table`'s columns.
    """
    if not rows:
        return
    part = _Part(build, table, tuple(rows[0]), tuple(same.items()))
    if session.get_bind().dialect.name == "postgresql":
        pending = session.info.get("pending")
        if pending is None:
            _execute(session, [(part, rows)])
        else:
            pending.append((part, rows))
    else:
        each = [{f"given_{name}": value for name, value in row.items()} for row in rows]
        session.connection().execute(_for_loop(part), each)


def insertion(table: Table, given: Given, **expressions: ColumnElement[Any]) -> Insert:
    """The statement that inserts what is given, and `expressions` and defaults in each row."""
    # SQLAlchemy fills defaults in only where the INSERT is a whole statement.
    defaults = {column.name: _default(column) for column in table.c if column.default is not None}
    values = {**defaults, **expressions, **given}
    return insert(table).from_select(list(values), select(*values.values()), include_defaults=False)


@contextmanager
def together(session: Session) -> Iterator[None]:
    """What `for_each` executes inside may be sent as one: no part sees what another one writes."""
    pending: list[tuple[_Part, Rows]] = []
    session.info["pending"] = pending
    try:
        yield
    finally:
        del session.info["pending"]
    if pending:
        _execute(session, pending)


def _execute(session: Session, parts: list[tuple[_Part, Rows]]) -> None:
    dialect = session.get_bind().dialect
    arrays = {
        f"given{number}_{name}": _array(
            [row[name] for row in rows], part.table.c[name].type, dialect
        )
        for number, (part, rows) in enumerate(parts)
        for name in part.names
    }
    session.connection().execute(_combined(tuple(part for part, _ in parts)), arrays)


def _array(values: list[Any], type_: TypeEngine[Any], dialect: Dialect) -> str:
    """What PostgreSQL reads as an array: psycopg takes three times as long to write one."""
    if isinstance(type_, TypeDecorator):
        values = [type_.process_bind_param(value, dialect) for value in values]
    elif isinstance(type_, JSON):
        values = [
            None if value is None and type_.none_as_null else json.dumps(value) for value in values
        ]
    return f"{{{','.join(map(_element, values))}}}"


def _element(value: object) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{escaped}"'
    if isinstance(value, bytes):
        return f'"\\\\x{value.hex()}"'
    return str(value)


@lru_cache
def _combined(parts: tuple[_Part, ...]) -> Any:
    statements = [_for_arrays(part, f"given{number}") for number, part in enumerate(parts)]
    if len(statements) == 1:
        return statements[0]
    ctes = [statement.cte(f"part{number}") for number, statement in enumerate(statements)]
    return select(literal(1)).add_cte(*ctes)


def _for_arrays(part: _Part, prefix: str) -> Any:
    types = {name: part.table.c[name].type for name in part.names}
    arrays = [
        sql_cast(bindparam(f"{prefix}_{name}", type_=Text()), ARRAY(type_))
        for name, type_ in types.items()
    ]
    columns = [column(name, type_) for name, type_ in types.items()]
    given = func.unnest(*arrays).table_valued(*columns, name=prefix).render_derived()
    return part.build(part.table, given.c, **dict(part.same))


@lru_cache
def _for_loop(part: _Part) -> Any:
    # Prefixed, as an INSERT or UPDATE keeps its columns' own names for itself.
    given = {name: bindparam(f"given_{name}", type_=part.table.c[name].type) for name in part.names}
    return part.build(part.table, given, **dict(part.same))


def _default(column: Column[Any]) -> ColumnElement[Any] | TextClause:
    default = column.default
    if isinstance(default, ColumnElementColumnDefault):
        return default.arg
    if isinstance(default, ScalarElementColumnDefault):
        return literal(default.arg, column.type)
    # A function in Python, which must not be called once for all rows: they have to bring the value.
    return null()

"""What all tables share."""

from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import JSON, Enum, ForeignKey, LargeBinary, MetaData
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from app.columns import CleanText, UTCDateTime


def _words(words: type[StrEnum]) -> list[str]:
    return [word.value for word in words]


class Base(DeclarativeBase):
    """What all tables share: how column types and constraints are named."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(column_0_label)s",
            "uq": "uq_%(table_name)s_%(column_0_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {  # noqa: RUF012 - SQLAlchemy's own spelling
        datetime: UTCDateTime,
        str: CleanText,
        dict[str, Any]: JSON,
        list[str]: JSON,
        bytes: LargeBinary,
        StrEnum: Enum(StrEnum, native_enum=False, length=20, values_callable=_words),
    }


def task_key() -> Mapped[UUID]:
    """A column that names a task; the row goes with it."""
    return mapped_column(ForeignKey("tasks.id", ondelete="CASCADE"))

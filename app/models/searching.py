"""The table of what tasks are found by."""

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import ForeignKey, Index
from sqlalchemy.orm import Mapped, mapped_column

from app.columns import BigSerial, WordSet
from app.models.base import Base


class Prompt(Base):
    """The words that a task's prompt is found by.

    Apart from the task: PostgreSQL writes all index entries of a row anew with each change of it.
    On SQLite triggers keep the full-text table `prompts_fts` beside this one, by `id`.
    """

    __tablename__ = "prompts"
    __table_args__ = (
        Index("ix_prompts_words", "words", postgresql_using="gin").ddl_if(dialect="postgresql"),
    )

    id: Mapped[int] = mapped_column(BigSerial, primary_key=True)
    task_id: Mapped[UUID] = mapped_column(ForeignKey("tasks.id", ondelete="CASCADE"), unique=True)
    words: Mapped[Sequence[str]] = mapped_column(WordSet)

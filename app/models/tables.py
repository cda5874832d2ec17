"""The tables.  Rows of a task go when the task goes; bytes in storage are deleted by `retention`."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import JSON, BigInteger, ForeignKey, Index, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from app.columns import BigSerial, db_now, transaction_number
from app.models.base import Base, task_key
from app.models.ids import new_id
from app.models.words import (
    ImageStatus,
    Source,
    TaskStatus,
    Verdict,
    Verification,
)


class Task(Base):
    """One edit: what was asked for, how far it is, what came of it."""

    __tablename__ = "tasks"
    __table_args__ = (
        Index("ix_tasks_status", "status", "id"),
        # The beginning of each holds one value of what a list is filtered by, in the list's order.
        Index("ix_tasks_provider", "provider", "status", "id"),
        Index("ix_tasks_model", "model", "provider", "status", "id"),
        Index("ix_tasks_trace_id", "trace_id", "id"),
        # Also for the beginning of an id, whatever the database's collation.
        Index("ix_tasks_provider_task", "provider_task_id", "provider",
              postgresql_ops={"provider_task_id": "text_pattern_ops"}),
        Index("ix_tasks_deadline_at", "deadline_at", sqlite_where=text("finished_at IS NULL"),
              postgresql_where=text("finished_at IS NULL")),
        Index("ix_tasks_ask_at", "provider", "ask_at", sqlite_where=text("ask_at IS NOT NULL"),
              postgresql_where=text("ask_at IS NOT NULL")),
        Index("uq_tasks_idempotency_key", "api_key_id", "idempotency_key", unique=True,
              sqlite_where=text("idempotency_key IS NOT NULL"),
              postgresql_where=text("idempotency_key IS NOT NULL")),
        Index("ix_tasks_unanswered", "api_key_id", "digest",
              sqlite_where=text("answered_at IS NULL"),
              postgresql_where=text("answered_at IS NULL")),
    )  # fmt: skip

    id: Mapped[UUID] = mapped_column(primary_key=True, default=new_id)
    provider: Mapped[str]
    provider_task_id: Mapped[str | None]
    api_key_id: Mapped[UUID | None] = mapped_column(ForeignKey("api_keys.id"))
    trace_id: Mapped[str | None]
    status: Mapped[TaskStatus] = mapped_column(default=TaskStatus.QUEUED)
    model: Mapped[str | None]
    prompt: Mapped[str | None]
    request: Mapped[dict[str, Any]]
    labels: Mapped[dict[str, Any]] = mapped_column("metadata", default=dict)
    callback_url: Mapped[str | None]

    # How a submission that comes again is known: by its caller's key, or by what it asks for.
    idempotency_key: Mapped[str | None]
    digest: Mapped[str | None]
    # From before an answer is written until it is; and when a caller has got one whole.
    answering_at: Mapped[datetime | None]
    answered_at: Mapped[datetime | None]

    # Set while a request is on its way: from before the first byte until the outcome is known.
    submitting_at: Mapped[datetime | None]
    # When the provider is asked next what became of the task, and how often it has answered.
    ask_at: Mapped[datetime | None]
    asks: Mapped[int] = mapped_column(default=0)
    deadline_at: Mapped[datetime]

    # The callback that counts as this task's result.
    result_id: Mapped[UUID | None]
    usage: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    verification: Mapped[Verification | None]
    error_code: Mapped[str | None]
    error_message: Mapped[str | None]
    error_status: Mapped[int | None]

    created_at: Mapped[datetime] = mapped_column(default=db_now())
    submitted_at: Mapped[datetime | None]
    received_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]


class Input(Base):
    """What a task starts from: an image at the caller's URL, or a file uploaded into our storage."""

    __tablename__ = "inputs"
    __table_args__ = (UniqueConstraint("task_id", "role", "index"),)

    id: Mapped[UUID] = mapped_column(primary_key=True, default=new_id)
    task_id: Mapped[UUID] = task_key()
    # A `Role`, or the name of the field that a file came under: providers add parameters.
    role: Mapped[str]
    index: Mapped[int]
    source_url: Mapped[str | None]
    key: Mapped[str | None]
    content_type: Mapped[str | None]
    size: Mapped[int | None] = mapped_column("bytes", BigInteger)


class Callback(Base):
    """One body that came in for a task, or was refused; equal bodies of a task share a row."""

    __tablename__ = "callbacks"
    __table_args__ = (
        UniqueConstraint("task_id", "sha256"),
        Index("ix_callbacks_verdict", "verdict", "id"),
        Index(
            "ix_callbacks_duplicates",
            "id",
            "duplicates",
            sqlite_where=text("duplicates > 0"),
            postgresql_where=text("duplicates > 0"),
        ),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True, default=new_id)
    task_id: Mapped[UUID | None] = mapped_column(ForeignKey("tasks.id", ondelete="CASCADE"))
    source: Mapped[Source]
    verdict: Mapped[Verdict]
    reason: Mapped[str | None]
    address: Mapped[str | None]
    headers: Mapped[dict[str, Any]] = mapped_column(default=dict)
    size: Mapped[int | None] = mapped_column("bytes", BigInteger)
    sha256: Mapped[str | None]
    # A small body is in the row, a large one in chunks that belong to this row's id.
    body: Mapped[bytes | None]
    # False while a large body waits to be read by the worker.
    checked: Mapped[bool] = mapped_column(default=True)
    duplicates: Mapped[int] = mapped_column(default=0)
    received_at: Mapped[datetime] = mapped_column(default=db_now())


class Chunk(Base):
    """A piece of a large body, or of an image that waits for storage; `owner_id` is that row's id.

    Chunks are written before their owner is, in transactions of their own: no foreign key.
    """

    __tablename__ = "chunks"

    owner_id: Mapped[UUID] = mapped_column(primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True)
    data: Mapped[bytes]


class Image(Base):
    """One image of a task's result and its copy in storage."""

    __tablename__ = "images"
    __table_args__ = (UniqueConstraint("task_id", "index"),)

    id: Mapped[UUID] = mapped_column(primary_key=True, default=new_id)
    task_id: Mapped[UUID] = task_key()
    callback_id: Mapped[UUID]
    index: Mapped[int]
    status: Mapped[ImageStatus] = mapped_column(default=ImageStatus.PENDING)
    # http(s): the provider's link; data: the bytes themselves; body:START+LENGTH, base64 in the callback.
    source: Mapped[str]
    # True when the bytes wait in chunks because storage was down as they arrived.
    spooled: Mapped[bool] = mapped_column(default=False)
    revised_prompt: Mapped[str | None]
    # Where it is once it is stored; known before it is there.
    key: Mapped[str | None]
    thumbnail_key: Mapped[str | None]
    content_type: Mapped[str | None]
    size: Mapped[int | None] = mapped_column("bytes", BigInteger)
    width: Mapped[int | None]
    height: Mapped[int | None]
    sha256: Mapped[str | None]
    error_code: Mapped[str | None]
    error_message: Mapped[str | None]
    stored_at: Mapped[datetime | None]


class Partial(Base):
    """An image as it was while the provider was still at work, already in storage."""

    __tablename__ = "partials"
    __table_args__ = (UniqueConstraint("task_id", "index"),)

    id: Mapped[UUID] = mapped_column(primary_key=True, default=new_id)
    task_id: Mapped[UUID] = task_key()
    index: Mapped[int]
    key: Mapped[str]
    content_type: Mapped[str]
    size: Mapped[int] = mapped_column("bytes", BigInteger)
    received_at: Mapped[datetime] = mapped_column(default=db_now())


class Job(Base):
    """Work to do.  A finished job has no row; a row's `due_at` says when it may be claimed.

    While a worker holds the job, `lease_token` is set and `due_at` is when the lease ends: so one
    condition, `due_at <= now`, finds new, delayed and abandoned jobs alike.
    """

    __tablename__ = "jobs"
    __table_args__ = (
        Index("ix_jobs_due", "queue", "due_at"),
        # Else the log would name many jobs by one id: SQLite gives that of a deleted row to the next.
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int] = mapped_column(BigSerial, primary_key=True)
    kind: Mapped[str]
    # Jobs of one queue share a limit on how many run at once.
    queue: Mapped[str]
    provider: Mapped[str | None]
    task_id: Mapped[UUID | None] = mapped_column(
        ForeignKey("tasks.id", ondelete="CASCADE"), index=True
    )
    subject_id: Mapped[UUID | None]
    unique_key: Mapped[str | None] = mapped_column(unique=True)
    due_at: Mapped[datetime] = mapped_column(default=db_now())
    attempts: Mapped[int] = mapped_column(default=0)
    failures: Mapped[int] = mapped_column(default=0)
    lease_token: Mapped[UUID | None]
    worker: Mapped[str | None]
    last_error: Mapped[str | None]


class Event(Base):
    """Something that happened to a task: its timeline, and the outbox of what is pushed.

    In the order of `(xid, id)` nothing appears before a place that a reader has passed, once it
    leaves out transactions that are still open: ids alone are given out before they are committed.
    """

    __tablename__ = "events"
    __table_args__ = (
        Index("ix_events_task", "task_id", "id"),
        Index("ix_events_order", "xid", "id"),
        Index("ix_events_pending", "id", sqlite_where=text("pending"),
              postgresql_where=text("pending")),
        Index("ix_events_message", "message_id", sqlite_where=text("message_id IS NOT NULL"),
              postgresql_where=text("message_id IS NOT NULL")),
        # Else the id of a row that was deleted is given to the next one, which readers then pass over.
        {"sqlite_autoincrement": True},
    )  # fmt: skip

    id: Mapped[int] = mapped_column(BigSerial, primary_key=True)
    task_id: Mapped[UUID] = task_key()
    at: Mapped[datetime] = mapped_column(default=db_now())
    event: Mapped[str]
    detail: Mapped[dict[str, Any]] = mapped_column(default=dict)
    # Which transaction wrote it (PostgreSQL; SQLite lets one at a time write).
    xid: Mapped[int] = mapped_column(BigInteger, default=transaction_number())
    # Until the relay has counted it and made deliveries of it.
    pending: Mapped[bool] = mapped_column(default=False)
    # The `webhook-id` of what subscribers are told; None for what they are not told.
    message_id: Mapped[UUID | None]


class Worker(Base):
    """A running worker and when it was last seen."""

    __tablename__ = "workers"

    name: Mapped[str] = mapped_column(primary_key=True)
    started_at: Mapped[datetime] = mapped_column(default=db_now())
    seen_at: Mapped[datetime] = mapped_column(default=db_now())

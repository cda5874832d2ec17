"""What is stored: the tables, the words in their columns, and their ids."""

from app.models.ids import first_id, made_at, new_id
from app.models.tables import (
    ApiKey,
    Audit,
    Base,
    Callback,
    Chunk,
    Event,
    Image,
    Input,
    Job,
    Task,
    Worker,
)
from app.models.words import (
    FINAL,
    UNANSWERED,
    ImageStatus,
    Role,
    Scope,
    Source,
    TaskStatus,
    Verdict,
    Verification,
)

__all__ = [
    "FINAL",
    "UNANSWERED",
    "ApiKey",
    "Audit",
    "Base",
    "Callback",
    "Chunk",
    "Event",
    "Image",
    "ImageStatus",
    "Input",
    "Job",
    "Role",
    "Scope",
    "Source",
    "Task",
    "TaskStatus",
    "Verdict",
    "Verification",
    "Worker",
    "first_id",
    "made_at",
    "new_id",
]

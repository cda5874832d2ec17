"""What is stored: the tables, the words in their columns, and their ids."""

from app.models.access import ApiKey, Audit, BrowserSession
from app.models.base import Base
from app.models.ids import first_id, made_at, new_id
from app.models.placing import Placement
from app.models.pushing import Attempt, Delivery, Endpoint, Message
from app.models.running import Circuit, Latency, Tally
from app.models.searching import Prompt
from app.models.tables import (
    Callback,
    Chunk,
    Event,
    Image,
    Input,
    Job,
    Partial,
    Task,
    Worker,
)
from app.models.words import (
    FINAL,
    UNANSWERED,
    DeliveryStatus,
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
    "Attempt",
    "Audit",
    "Base",
    "BrowserSession",
    "Callback",
    "Chunk",
    "Circuit",
    "Delivery",
    "DeliveryStatus",
    "Endpoint",
    "Event",
    "Image",
    "ImageStatus",
    "Input",
    "Job",
    "Latency",
    "Message",
    "Partial",
    "Placement",
    "Prompt",
    "Role",
    "Scope",
    "Source",
    "Tally",
    "Task",
    "TaskStatus",
    "Verdict",
    "Verification",
    "Worker",
    "first_id",
    "made_at",
    "new_id",
]

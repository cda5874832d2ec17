"""Results that come over our own connection: in the answer to a submission, or to a lookup."""

import structlog
from sqlalchemy.orm import Session

from app import bodies, tasks
from app.errors import InvalidResultError
from app.inbox.ledger import take_in
from app.inbox.values import Incoming
from app.models import Source, Task
from app.providers.base import Result
from app.services import Services

log = structlog.get_logger()


def take_answer(
    services: Services, session: Session, task: Task, source: Source, body: bytes
) -> bool:
    """Take in a result that came over our own connection; says whether it could be read as one."""
    result = _read(services, task, body)
    if result is None:
        return False
    if task.submitted_at is None:
        tasks.submitted(session, task, result.provider_task_id, ask_after=0)
    session.flush()
    take_in(session, [Incoming(source, bodies.keep(session, body), task.id, result)])
    return True


def is_success(services: Services, task: Task, body: bytes) -> bool:
    """Whether a result that came over our own connection has images."""
    result = _read(services, task, body)
    return result is not None and result.error is None


def _read(services: Services, task: Task, body: bytes) -> Result | None:
    try:
        return services.providers[task.provider].read_result(bodies.read_json(body))
    except InvalidResultError as error:
        log.warning("no result in the answer", action="take_answer", error=str(error))
        return None

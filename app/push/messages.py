"""Messages out of events: the bytes that subscribers are sent, and a delivery to each of them.

A message is a snapshot, made once: every attempt to deliver it sends the same bytes.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, cast
from uuid import UUID

from sqlalchemy import Insert, Table, select
from sqlalchemy.orm import Session

from app import jobs, reports
from app.bulk import Given, for_each, insert_all, insertion, together
from app.columns import db_now
from app.events import PUSHED, Happened
from app.models import FINAL, Delivery, Endpoint, Event, Image, ImageStatus, Message, Task, new_id
from app.push import deliveries
from app.reports import rfc3339
from app.services import Services

TYPES = tuple(sorted(f"task.{word}" for word in PUSHED))

_MESSAGES = cast(Table, Message.__table__)
_DELIVERIES = cast(Table, Delivery.__table__)

Json = dict[str, Any]


@dataclass
class Post:
    """Messages and deliveries to be written together."""

    messages: list[Json] = field(default_factory=list)
    deliveries: list[Json] = field(default_factory=list)

    def announce(self, event: Event, task: Json, endpoints: Iterable[Endpoint]) -> None:
        """Tell endpoints of an event; `task` is its task in full."""
        body = {
            "type": type_of(event),
            "timestamp": rfc3339(event.at),
            "data": _as_of(event, task),
        }
        self._add_message(cast(UUID, event.message_id), event, body)
        self.address(event, endpoints)

    def address(self, event: Event, endpoints: Iterable[Endpoint]) -> None:
        """Send endpoints the message of an event that is there already."""
        for endpoint in endpoints:
            self._add_delivery(cast(UUID, event.message_id), event, endpoint.id, None)

    def call_back(self, event: Event, task: Task, document: Json) -> None:
        """Tell the `callback_url` of a task that it has ended, as its provider would have told it."""
        message_id = new_id()
        self._add_message(message_id, event, _envelope(event, task, document))
        self._add_delivery(message_id, event, None, task.callback_url)

    def write(self, session: Session) -> None:
        """Insert everything, with a job for each delivery."""
        with together(session):
            insert_all(session, _MESSAGES, self.messages)
            for_each(session, _DELIVERIES, self.deliveries, _delivering)
            jobs.enqueue(
                session,
                *(
                    deliveries.job_for(
                        each["id"], each["endpoint_id"], each["task_id"], each["url"]
                    )
                    for each in self.deliveries
                ),
            )

    def _add_message(self, id_: UUID, event: Event, body: Json) -> None:
        self.messages.append(
            {
                "id": id_,
                "task_id": event.task_id,
                "event_id": event.id,
                "type": type_of(event),
                "body": json.dumps(body).encode(),
            }
        )

    def _add_delivery(
        self, message_id: UUID, event: Event, endpoint_id: UUID | None, url: str | None
    ) -> None:
        self.deliveries.append(
            {
                "id": new_id(),
                "message_id": message_id,
                "endpoint_id": endpoint_id,
                "task_id": event.task_id,
                "url": url,
                "type": type_of(event),
            }
        )


def type_of(event: Event) -> str:
    """What subscribers call the event."""
    return f"task.{event.event}"


def wants(endpoint: Endpoint, event: Event) -> bool:
    """Whether the endpoint is to be told of the event."""
    return endpoint.events is None or type_of(event) in endpoint.events


def tell(
    services: Services, session: Session, events: Sequence[Event], endpoints: Sequence[Endpoint]
) -> Sequence[Event]:
    """Make what is to be sent because of `events`: to endpoints, and to the tasks' own callers.

    Gives the events that are done: not those whose task somebody else has locked.
    """
    told = [event for event in events if event.message_id is not None]
    wanting = {event.id: [each for each in endpoints if wants(each, event)] for event in told}
    ended = {event.task_id for event in told if event.event in FINAL}
    called = select(Task.id).where(Task.id.in_(ended), Task.callback_url.is_not(None))
    callers = set(session.scalars(called)) if ended else set()
    concerned = callers | {event.task_id for event in told if wanting[event.id]}
    if not concerned:
        return events
    tasks = _unlocked(session, concerned)
    documents = reports.tasks_in_full(services, session, list(tasks.values()))
    post = Post()
    for event in told:
        if (task := tasks.get(event.task_id)) is None:
            continue
        if wanting[event.id]:
            post.announce(event, documents[task.id], wanting[event.id])
        if task.callback_url is not None and event.event in FINAL:
            post.call_back(event, task, documents[task.id])
    post.write(session)
    return [each for each in events if each.task_id not in concerned or each.task_id in tasks]


def send(services: Services, session: Session, events: Sequence[Event], endpoint: Endpoint) -> None:
    """Send one endpoint what it was not told of `events`, under their own ids.

    A body that is there already is sent as it is; one that nobody got is made of the task as it is.
    """
    ids = [event.message_id for event in events]
    there = set(session.scalars(select(Message.id).where(Message.id.in_(ids))))
    wanted = {event.task_id for event in events if event.message_id not in there}
    kept = select(Task).where(Task.id.in_(wanted)).order_by(Task.id)
    tasks = session.scalars(kept.with_for_update(read=True, key_share=True)).all()
    documents = reports.tasks_in_full(services, session, tasks)
    post = Post()
    for event in events:
        if event.message_id in there:
            post.address(event, [endpoint])
        elif event.task_id in documents:
            post.announce(event, documents[event.task_id], [endpoint])
    post.write(session)


def example(services: Services, session: Session, endpoint: Endpoint) -> Delivery:
    """An example of an event that the endpoint wants, on its way to it."""
    types = endpoint.events or [f"task.{Happened.SUCCEEDED}"]
    document = _example_task(services, session, types[0].removeprefix("task."))
    body = {"type": types[0], "timestamp": document["created_at"], "data": document}
    message = Message(id=new_id(), type=types[0], body=json.dumps(body).encode())
    delivery = Delivery(
        id=new_id(),
        message_id=message.id,
        endpoint_id=endpoint.id,
        type=message.type,
        next_attempt_at=db_now(),
    )
    session.add(message)
    session.flush()
    session.add(delivery)
    session.flush()
    session.refresh(delivery)
    jobs.enqueue(session, deliveries.job_for(delivery.id, endpoint.id, None, None))
    return delivery


def _example_task(services: Services, session: Session, word: str) -> Json:
    """A task that there never was, with all that one shows."""
    failed = word == Happened.FAILED
    task = Task(
        id=new_id(),
        provider=services.config.default_provider,
        status=word,
        prompt="an example",
        request={"prompt": "an example"},
        labels={},
        error_code="example" if failed else None,
        error_message="an example" if failed else None,
        created_at=datetime.now(UTC),
    )
    image = Image(
        id=new_id(),
        index=0,
        status=ImageStatus.STORED,
        key="example.png",
        content_type="image/png",
        size=1_234_567,
        width=1024,
        height=1536,
    )
    document = reports.tasks_in_full(services, session, [task])[task.id]
    images = [reports.image_of(services, image)] if word == Happened.SUCCEEDED else []
    return {**document, "images": images}


def _unlocked(session: Session, ids: Iterable[UUID]) -> Mapping[UUID, Task]:
    """The tasks, which stay until the transaction ends; without those that are being changed.

    Rows that name a task lock it: waiting for locks in the order of such rows could be waiting in a
    circle with those who lock tasks in the order of their ids.
    """
    free = select(Task).where(Task.id.in_(list(ids)))
    free = free.with_for_update(read=True, key_share=True, skip_locked=True)
    return {task.id: task for task in session.scalars(free)}


def _delivering(table: Table, given: Given) -> Insert:
    return insertion(table, given, next_attempt_at=db_now())


def _as_of(event: Event, task: Json) -> Json:
    """The task as the event tells of it: by now it may have gone on."""
    if task["status"] == event.event:
        return task
    entry = reports.entry(event)
    timeline = task["timeline"]
    ended = event.event in FINAL
    return {
        **task,
        "status": event.event,
        "images": task["images"] if event.event == "received" else [],
        "error": {name: event.detail.get(name) for name in ("code", "message")}
        if event.event == "failed"
        else None,
        "timeline": timeline[: timeline.index(entry) + 1] if entry in timeline else timeline,
        "finished_at": rfc3339(event.at) if ended else None,
    }


def _envelope(event: Event, task: Task, document: Json) -> Json:
    """A callback as acedata sends it; the provider's own clients read it."""
    now = _as_of(event, document)
    head = {"task_id": str(task.id), "trace_id": task.trace_id or str(task.id)}
    if event.event != "succeeded":
        error = now["error"] or {"code": "canceled", "message": "the task was canceled"}
        return {"success": False, **head, "error": error}
    envelope = {
        "success": True,
        **head,
        "created": int(event.at.timestamp()),
        "model": task.model,
        "data": [_item(image) for image in now["images"] if image["status"] == ImageStatus.STORED],
        "usage": task.usage,
    }
    return {name: value for name, value in envelope.items() if value is not None}


def _item(image: Json) -> Json:
    prompt = {"revised_prompt": image["revised_prompt"]} if image["revised_prompt"] else {}
    return {"url": image["url"], **prompt}

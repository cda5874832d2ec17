"""The parts that this process's views work with."""

from typing import cast

from flask import current_app, request

from app.resends import Marks, Turns
from app.services import Services
from app.web.broadcast import Broadcast
from app.web.intake import Budget
from app.web.middleware import REQUEST_ID
from app.web.waiting import Waiters


def services() -> Services:
    """The services of the application that answers this request."""
    return cast(Services, current_app.extensions["services"])


def waiters() -> Waiters:
    """Who waits for tasks in this process."""
    return cast(Waiters, current_app.extensions["waiters"])


def upload_budget() -> Budget:
    """How much may be uploaded to this process at once."""
    return cast(Budget, current_app.extensions["uploads"])


def broadcast() -> Broadcast:
    """What tells the streams of this process what happens."""
    return cast(Broadcast, current_app.extensions["broadcast"])


def marks() -> Marks:
    """Where this process notes which answers got through."""
    return cast(Marks, current_app.extensions["marks"])


def turns() -> Turns:
    """How submissions that may be one enter in this process."""
    return cast(Turns, current_app.extensions["turns"])


def request_id() -> str:
    """This request's id, the `trace_id` of its errors."""
    return str(request.environ.get(REQUEST_ID, ""))

"""What all providers have in common: the values that go in and come out of their pure functions."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Protocol
from uuid import UUID

from app.errors import ProviderError
from app.providers.rules import Rules
from app.wire import Request, Response


@dataclass(frozen=True)
class File:
    """A file that goes with a request: `size` bytes, which `open` gives for a `with` statement."""

    field: str
    name: str
    content_type: str
    size: int
    open: Callable[[], BinaryIO]


@dataclass(frozen=True)
class Edit:
    """One edit to submit; `fields` as the caller gave them, without what is only ours."""

    task_id: UUID
    fields: Mapping[str, Any]
    callback_url: str
    files: tuple[File, ...] = ()


@dataclass(frozen=True)
class ResultImage:
    """One image of a result.

    `source` is the provider's link (http, https), the bytes themselves (data:), or where in the body
    their base64 stands (body:START+LENGTH, see `bodies.split`).
    """

    source: str
    revised_prompt: str | None = None


@dataclass(frozen=True)
class Result:
    """What an edit came to: images, or an error."""

    provider_task_id: str | None
    images: tuple[ResultImage, ...] = ()
    error: ProviderError | None = None
    usage: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class PartialImage:
    """An image as it is while the provider is at work; `source` as that of a `ResultImage`."""

    source: str


@dataclass(frozen=True)
class Accepted:
    """The provider took the edit and will call back."""

    provider_task_id: str | None


@dataclass(frozen=True)
class Answered:
    """The provider answered with the result at once; `body` is the answer, as it came."""

    body: bytes


@dataclass(frozen=True)
class Unknown:
    """Whether the provider took the edit cannot be told from its answer.

    `answering` says that it had begun with one: it is not away.
    """

    reason: str
    answering: bool = False


@dataclass(frozen=True)
class Found:
    """What the provider's lookup knows of a task; `body` is the result as JSON, if there is one."""

    provider_task_id: str | None
    body: bytes | None = None


Submission = Accepted | Answered | Unknown


class Lookup(Protocol):
    """How a provider is asked what became of tasks."""

    def lookup_request(self, task_ids: Sequence[UUID]) -> Request:
        """The request that asks for these tasks of ours."""

    def read_lookup(self, response: Response) -> dict[UUID, Found]:
        """The ones that the provider knows; raises `ProviderError` when it did not say."""


class Provider(Protocol):
    """The protocol of one provider, as pure functions over HTTP messages.

    One that `calls_back` takes an edit and brings its result later; else a worker holds the call open
    until the result has come, whole or as a stream of events.  One without `lookup` cannot be asked
    what became of a task.
    """

    name: str
    calls_back: bool
    rules: Rules

    @property
    def lookup(self) -> Lookup | None:
        """How it is asked, if it can be."""

    def submit_request(self, edit: Edit) -> Request:
        """The request that submits `edit`."""

    def read_submission(self, response: Response) -> Submission:
        """What the answer to it means; raises `ProviderError` for a refusal before any work."""

    def read_result(self, payload: Mapping[str, Any]) -> Result:
        """The result that a callback body holds; raises `InvalidResultError` when it holds none."""

    def read_event(self, payload: Mapping[str, Any]) -> PartialImage | Result | None:
        """What one event of a streamed answer brings; None when that is nothing."""


@dataclass(frozen=True)
class Credentials:
    """Where a provider's API is, and our key there."""

    base_url: str
    api_key: str | None = field(repr=False)

    def headers(self) -> dict[str, str]:
        """The headers that every call carries."""
        headers = {"Accept": "application/json"}
        if self.api_key:
            headers["Authorization"] = f"Bearer {self.api_key}"
        return headers

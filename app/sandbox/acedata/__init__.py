"""Ace Data Cloud's protocol, as its documentation and SDK describe it.

`envelopes` has its JSON, `work` does what was accepted, `lookups` is the task endpoint.
"""

import time
from collections.abc import Sequence

from werkzeug import Response
from werkzeug.routing import Rule

from app.errors import ProviderError
from app.sandbox import fields, submissions
from app.sandbox.acedata import envelopes, lookups
from app.sandbox.acedata.work import Job, Work
from app.sandbox.ledger import Task
from app.sandbox.messages import HangUpError, ProviderRequest, json_response
from app.sandbox.misbehaviours import Wishes, Word
from app.sandbox.parts import Parts

_HTML = "<!doctype html><title>500</title><h1>Internal Server Error</h1>\n"


class Acedata:
    """Answers what Ace Data Cloud answers."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._work = Work(parts)

    def rules(self) -> Sequence[Rule]:
        """The provider's addresses; each endpoint takes a `ProviderRequest` and gives a response.

        Endpoints raise `ProviderError` for what the provider refuses, and `HangUpError`.
        """
        return [
            Rule("/openai/images/edits", methods=["POST"], endpoint=self.submit),
            Rule("/v1/images/edits", methods=["POST"], endpoint=self.submit),
            Rule("/openai/tasks", methods=["POST"], endpoint=self.look_up),
        ]

    def submit(self, request: ProviderRequest) -> Response:
        """Takes an edit: done before the answer, or after it with `callback_url` or `async`."""
        with self._parts.ledger.submitting():
            return self._submit(request)

    def look_up(self, request: ProviderRequest) -> Response:
        """Tells of one task, or of many."""
        request.authorize(self._parts.options.api_key)
        self._parts.ledger.asked()
        return json_response(lookups.answer(self._parts.ledger, fields.read(request)))

    def _submit(self, request: ProviderRequest) -> Response:
        request.authorize(self._parts.options.api_key)
        given = fields.read(request)
        own_trace_id = fields.text(given, "trace_id")
        request.trace_id = own_trace_id or request.trace_id
        url = fields.link(given, "callback_url")
        edit, asked = submissions.read(request, given)
        wishes = {**self._parts.options.misbehaviours, **asked}
        # A client that names nothing is known by what it asks for.
        key = own_trace_id or edit.prompt
        self._require_room()
        if refused := self._refused(key, wishes):
            return refused
        task = Task(
            trace_id=request.trace_id,
            request={**given},
            kept=bool(url) or fields.flag(given, "async"),
            key=own_trace_id or "",
        )
        job = self._work.accept(task, edit, wishes, url)
        self._lose_answer(key, job)
        answer = self._answer(job)
        time.sleep(wishes.get(Word.SLOW_ANSWER, 0))
        return answer

    def _require_room(self) -> None:
        if self._parts.scheduler.full:
            raise _too_many("too many tasks are waiting")

    def _refused(self, key: str, wishes: Wishes) -> Response | None:
        if self._happens(Word.ERROR_429, key, wishes):
            raise _too_many("the prompt asked for this")
        if self._happens(Word.ERROR_500, key, wishes):
            raise ProviderError("the prompt asked for this", code="api_error", status=500)
        if self._happens(Word.HANG_UP_BEFORE, key, wishes):
            raise HangUpError
        if self._happens(Word.BARE_500, key, wishes):
            return Response(_HTML, 500, mimetype="text/html")
        return None

    def _lose_answer(self, key: str, job: Job) -> None:
        """Lets the work go on, when the answer to its submission is to be lost."""
        cut = self._happens(Word.HANG_UP_AFTER, key, job.wishes)
        late = not cut and self._happens(Word.ERROR_504, key, job.wishes)
        if cut or late:
            self._work.start(job)
        if cut:
            raise HangUpError
        if late:
            raise ProviderError("it took too long", code="timeout", status=504)

    def _happens(self, word: Word, key: str, wishes: Wishes) -> bool:
        return word in wishes and self._parts.ledger.attempt(word, key, wishes[word])

    def _answer(self, job: Job) -> Response:
        if not job.task.kept:
            outcome = self._work.start(job).result()
            if isinstance(outcome, ProviderError):
                raise outcome
            return json_response(outcome)
        if Word.EARLY in job.wishes:
            self._work.finish(job)
        else:
            self._work.start(job)
        return json_response(envelopes.accepted(job.task))


def _too_many(message: str) -> ProviderError:
    return ProviderError(message, code="too_many_requests", status=429, retry_after=1)

"""Ace Data Cloud's protocol, as its documentation and SDK describe it.

`envelopes` has its JSON, `work` does what was accepted, `lookups` is the task endpoint.
"""

import time
from collections.abc import Sequence

from werkzeug import Response
from werkzeug.routing import Rule

from app.errors import ProviderError
from app.providers.acedata import RULES
from app.sandbox import fields, submissions
from app.sandbox.acedata import envelopes, lookups
from app.sandbox.acedata.work import Job, Work
from app.sandbox.ledger import Task
from app.sandbox.messages import ProviderRequest, json_response
from app.sandbox.misbehaviours import Word
from app.sandbox.parts import Parts
from app.sandbox.refusals import Refusals


class Acedata:
    """Answers what Ace Data Cloud answers."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._work = Work(parts)
        self._refusals = Refusals(parts)

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
        edit, asked = submissions.read(request, given, RULES)
        wishes = {**self._parts.options.misbehaviours, **asked}
        # A client that names nothing is known by what it asks for.
        key = own_trace_id or edit.prompt
        if refused := self._refusals.before(key, wishes):
            return refused
        task = Task(
            trace_id=request.trace_id,
            request={**given},
            kept=bool(url) or fields.flag(given, "async"),
            key=own_trace_id or "",
        )
        job = self._work.accept(task, edit, wishes, url)
        if lost := self._refusals.after(key, job.wishes):
            # Only the answer is: the work goes on.
            self._work.start(job)
            raise lost
        answer = self._answer(job)
        time.sleep(wishes.get(Word.SLOW_ANSWER, 0))
        return answer

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

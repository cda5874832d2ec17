"""AGCloud's protocol: a form with files, and the result in the answer, whole or as events.

There is no callback and no lookup.  A submission is counted under its `X-Request-Id`, else under an
id of its own; what goes wrong a number of times, under its prompt then.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from werkzeug import Response
from werkzeug.routing import Rule

from app.errors import ProviderError
from app.providers.agcloud import RULES
from app.sandbox import fields, rendering, submissions
from app.sandbox.agcloud import envelopes
from app.sandbox.edits import Edit, bad_request
from app.sandbox.gallery import Picture
from app.sandbox.ledger import Task
from app.sandbox.messages import ProviderRequest, hang_up, json_response, refusal
from app.sandbox.misbehaviours import Wishes, Word
from app.sandbox.parts import Parts
from app.sandbox.refusals import Refusals
from app.sandbox.spoiling import HTML


@dataclass(frozen=True)
class _Call:
    """An accepted edit, whose caller waits; `key` is what it is counted under."""

    request: ProviderRequest
    key: str
    edit: Edit
    quality: str
    partials: int
    wishes: Wishes


class Agcloud:
    """Answers what AGCloud answers."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._refusals = Refusals(parts)

    def rules(self) -> Sequence[Rule]:
        """The provider's one address."""
        return [Rule("/v1/image/edits", methods=["POST"], endpoint=self.submit)]

    def submit(self, request: ProviderRequest) -> Response:
        """Does an edit, and answers when it is done or, with `stream`, meanwhile."""
        with ExitStack() as held:
            held.enter_context(self._parts.ledger.submitting())
            try:
                response = self._answer(request)
            except ProviderError as error:
                return refusal(error, envelopes.failure(error))
            # A stream is held until its end.
            response.call_on_close(held.pop_all().close)
            return response

    def _answer(self, request: ProviderRequest) -> Response:
        request.authorize(self._parts.options.api_key)
        if request.mimetype != "multipart/form-data":
            raise bad_request("the body must be multipart/form-data")
        given = dict(fields.read(request))
        # Not among its fields: the form of the answer is not for the caller to choose.
        given.pop("response_format", None)
        edit, asked = submissions.read(request, given, RULES)
        if any(isinstance(image, str) for image in edit.images):
            raise bad_request("image must be a file")
        partials = int(given.get("partial_images") or 0)
        stream = fields.flag(given, "stream")
        wishes = {**self._parts.options.misbehaviours, **asked}
        request_id = request.headers.get("X-Request-Id", "")
        name = request_id or edit.prompt
        if refused := self._refusals.before(name, wishes):
            return refused
        task = Task(trace_id=request_id, request=given, kept=False, key=request_id)
        self._parts.ledger.accept(task)
        if lost := self._refusals.after(name, wishes):
            raise lost
        quality = fields.text(given, "quality") or "auto"
        call = _Call(request, task.key, edit, quality, partials, wishes)
        return self._streamed(call) if stream else self._whole(call)

    def _whole(self, call: _Call) -> Response:
        pictures = self._make(call, self._parts.options.delay)
        time.sleep(call.wishes.get(Word.SLOW_ANSWER, 0))
        self._give(call, pictures)
        base_url = self._parts.base_url
        return json_response(envelopes.answer(call.edit, pictures, call.wishes, base_url))

    def _streamed(self, call: _Call) -> Response:
        # What is refused is refused before the stream begins.
        pictures = self._make(call, 0)
        return Response(self._events(call, pictures), mimetype="text/event-stream")

    def _make(self, call: _Call, delay: float) -> Sequence[Picture]:
        def make() -> Sequence[Picture] | ProviderError:
            try:
                return self._parts.studio.make(call.edit, call.wishes)
            except ProviderError as error:
                return error

        outcome = self._parts.scheduler.after(delay, make).result()
        if isinstance(outcome, ProviderError):
            raise outcome
        return outcome

    def _events(self, call: _Call, pictures: Sequence[Picture]) -> Iterator[bytes]:
        # Sends the headers.
        yield b""
        pause = self._parts.options.delay / (call.partials + 1)
        for index in range(call.partials):
            time.sleep(pause)
            yield envelopes.partial(
                call.edit, call.quality, index, _unfinished(call, pictures[0], index)
            )
        time.sleep(pause + call.wishes.get(Word.SLOW_ANSWER, 0))
        if Word.BROKEN_STREAM in call.wishes:
            hang_up(call.request.environ)
        if Word.CUT_STREAM in call.wishes:
            return
        if Word.STREAM_ERROR in call.wishes:
            error = ProviderError("the edit failed", code="server_error", status=500)
            yield envelopes.failed(error)
            return
        yield from self._completed(call, pictures)

    def _completed(self, call: _Call, pictures: Sequence[Picture]) -> Iterator[bytes]:
        self._give(call, pictures)
        tokens = envelopes.usage(call.edit, len(pictures), call.partials)
        for picture in pictures:
            yield envelopes.completed(call.edit, call.quality, picture, tokens)
        if Word.NO_DONE not in call.wishes:
            yield envelopes.DONE

    def _give(self, call: _Call, pictures: Sequence[Picture]) -> None:
        """Counts pictures when they are on their way: others could never be had."""
        for picture in pictures:
            self._parts.ledger.made(call.key, picture.id, picture.sha256)


def _unfinished(call: _Call, picture: Picture, index: int) -> bytes:
    if Word.BAD_PARTIAL in call.wishes:
        return HTML
    return rendering.unfinished(picture.path, call.edit, (index + 1) / (call.partials + 1))

"""Submissions that a provider refuses, or whose answer it loses, because that is wished."""

from werkzeug import Response

from app.errors import ProviderError
from app.sandbox.messages import HangUpError
from app.sandbox.misbehaviours import Wishes, Word
from app.sandbox.parts import Parts

_HTML = "<!doctype html><title>500</title><h1>Internal Server Error</h1>\n"


class Refusals:
    """Each goes wrong as often as is wished for the submissions under one `key`."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def before(self, key: str, wishes: Wishes) -> Response | None:
        """What is answered instead of accepting anything, if it is no error of the provider's.

        Raises `ProviderError` and `HangUpError`.
        """
        if self._parts.scheduler.full:
            raise _too_many("too many tasks are waiting")
        if self._happens(Word.ERROR_429, key, wishes):
            raise _too_many("the prompt asked for this")
        if self._happens(Word.ERROR_500, key, wishes):
            raise ProviderError("the prompt asked for this", code="api_error", status=500)
        if self._happens(Word.HANG_UP_BEFORE, key, wishes):
            raise HangUpError
        if self._happens(Word.BARE_500, key, wishes):
            return Response(_HTML, 500, mimetype="text/html")
        return None

    def after(self, key: str, wishes: Wishes) -> Exception | None:
        """What is to be raised instead of the answer to a submission that was accepted."""
        if self._happens(Word.HANG_UP_AFTER, key, wishes):
            return HangUpError()
        if self._happens(Word.ERROR_504, key, wishes):
            return ProviderError("it took too long", code="timeout", status=504)
        return None

    def _happens(self, word: Word, key: str, wishes: Wishes) -> bool:
        return word in wishes and self._parts.ledger.attempt(word, key, wishes[word])


def _too_many(message: str) -> ProviderError:
    return ProviderError(message, code="too_many_requests", status=429, retry_after=1)

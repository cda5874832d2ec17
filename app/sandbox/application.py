"""The sandbox as one WSGI application: the providers, the image host, and the truth for tests."""

from collections.abc import Iterable, Sequence
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING

from werkzeug import Response
from werkzeug.exceptions import HTTPException, NotFound
from werkzeug.routing import Map, Rule

from app.errors import ProviderError
from app.sandbox.gallery import ClosedError
from app.sandbox.hosting import Host
from app.sandbox.messages import (
    HangUpError,
    ProviderRequest,
    error_body,
    hang_up,
    json_response,
    refusal,
)
from app.sandbox.parts import Parts

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment


class Application:
    """Answers by the `rules` of the providers and its own; runs under werkzeug's server only."""

    def __init__(self, parts: Parts, rules: Sequence[Rule]) -> None:
        self._parts = parts
        options = parts.options
        host = Host(parts.gallery, ttl=options.image_ttl, private_url=options.private_url)
        self._map = Map(
            [
                *rules,
                Rule("/images/<name>", methods=["GET"], endpoint=host.image),
                Rule("/photos/<name>", methods=["GET"], endpoint=host.photo),
                Rule("/sandbox/state", methods=["GET"], endpoint=self.state),
                Rule("/sandbox/state", methods=["DELETE"], endpoint=self.reset),
            ],
            merge_slashes=False,
        )

    def __call__(
        self, environ: "WSGIEnvironment", start_response: "StartResponse"
    ) -> Iterable[bytes]:
        request = ProviderRequest(environ)
        try:
            with request:
                response = self._answer(request)
        except (HangUpError, ClosedError, CancelledError):
            hang_up(environ)
        return response(environ, start_response)

    def state(self, request: ProviderRequest) -> Response:  # noqa: ARG002 - like every endpoint
        """What was accepted, sent, made and asked."""
        return json_response(self._parts.ledger.state())

    def reset(self, request: ProviderRequest) -> Response:  # noqa: ARG002 - like every endpoint
        """Forgets what happened, the pictures too."""
        self._parts.ledger.reset()
        self._parts.gallery.clear()
        return Response(status=204)

    def _answer(self, request: ProviderRequest) -> Response:
        try:
            endpoint, values = self._map.bind_to_environ(request).match()
            response: Response = endpoint(request, **values)
        except ProviderError as error:
            return refusal(error, error_body(error, request.trace_id))
        except HTTPException as error:
            refused = _as_provider(error)
            return refusal(refused, error_body(refused, request.trace_id))
        return response


def _as_provider(error: HTTPException) -> ProviderError:
    code = "no_api" if isinstance(error, NotFound) else "bad_request"
    return ProviderError(error.description or error.name, code=code, status=error.code or 500)

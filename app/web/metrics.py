"""`/metrics`: for Prometheus."""

import ipaddress
from hmac import compare_digest

from flask import Blueprint, Response, request
from prometheus_client import CONTENT_TYPE_LATEST

from app import figures
from app.web.auth import public
from app.web.envelope import HttpError
from app.web.health import silent_seconds
from app.web.state import services

bp = Blueprint("metrics", __name__)


@bp.get("/metrics")
@public
def metrics() -> Response:
    """The figures, for who asks from this machine or bears `METRICS_TOKEN`."""
    if not (_bears_token() or _is_local()):
        raise HttpError(
            "invalid_token" if "Authorization" in request.headers else "no_token",
            "expected the header Authorization: Bearer with METRICS_TOKEN",
            headers={"WWW-Authenticate": "Bearer"},
        )
    with services().db.reading() as session:
        text = figures.exposition(session, silent_seconds(services().config))
    return Response(text, content_type=CONTENT_TYPE_LATEST)


def _bears_token() -> bool:
    token = services().config.metrics_token
    scheme, _, given = request.headers.get("Authorization", "").partition(" ")
    if token is None or scheme.lower() != "bearer":
        return False
    return compare_digest(given.strip().encode(), token.encode())


def _is_local() -> bool:
    # A reverse proxy on this machine would make everybody local.
    if "X-Forwarded-For" in request.headers or "Forwarded" in request.headers:
        return False
    return ipaddress.ip_address(request.remote_addr or "::").is_loopback

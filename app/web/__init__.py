"""HTTP in: the API and the pages in Flask, the callback receiver beside it in plain WSGI."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from flask import Flask, Response, g
from flask_limiter import Limiter, RequestLimit
from flask_wtf import CSRFProtect
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.middleware.proxy_fix import ProxyFix

from app.config import Config
from app.errors import StorageError
from app.resends import Marks, Turns
from app.services import Services
from app.web import (
    actions,
    auth,
    compatible,
    endpoints,
    failures,
    health,
    lookups,
    metrics,
    openapi,
    pages,
    pictures,
    stats,
    streams,
    submissions,
)
from app.web.broadcast import Broadcast
from app.web.envelope import HttpError
from app.web.intake import Budget
from app.web.middleware import observed
from app.web.reading import UPLOADS_IN_FLIGHT
from app.web.receiver import Receiver
from app.web.waiting import Waiters

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

ROOT = Path(__file__).parent.parent.parent
THREADS = 256
# How many threads are kept free of requests that wait, for callbacks and lookups.
FREE_THREADS = 26
SESSION_HOURS = 12
FORM_BYTES = 64 * 1024


@dataclass(frozen=True)
class Application:
    """The whole of what is served over HTTP; `end` lets go of clients that would stay for long."""

    wsgi: "WSGIApplication"
    end: Callable[[], None]

    def __call__(
        self, environ: "WSGIEnvironment", start_response: "StartResponse"
    ) -> Iterable[bytes]:
        """Answer one request."""
        return self.wsgi(environ, start_response)


def application(services: Services) -> Application:
    """All parts together, around them what all requests have in common."""
    config = services.config
    receiver = Receiver(services)
    app = create_app(services)
    whole: WSGIApplication = DispatcherMiddleware(app, {"/callbacks": receiver})
    services.db.listen()
    whole = observed(whole, https=config.public_url.startswith("https://"))
    if proxies := config.trusted_proxies:
        whole = ProxyFix(whole, x_for=proxies, x_proto=proxies, x_host=proxies)

    def end() -> None:
        app.extensions["broadcast"].end()
        app.extensions["waiters"].wake_all()

    return Application(whole, end)


def create_app(services: Services) -> Flask:
    """The Flask application: everything but the callback receiver."""
    config = services.config
    app = Flask(
        "postback", template_folder=str(ROOT / "templates"), static_folder=str(ROOT / "static")
    )
    app.config.update(_settings(config))
    app.extensions["services"] = services
    app.extensions["waiters"] = Waiters(services.db, THREADS - FREE_THREADS)
    app.extensions["uploads"] = Budget(UPLOADS_IN_FLIGHT * config.max_upload_bytes)
    app.extensions["broadcast"] = Broadcast(services)
    app.extensions["marks"] = Marks(services.db)
    app.extensions["turns"] = Turns()
    app.extensions["checks"] = health.checks(services)
    pages.prepare(app)
    app.before_request(auth.check)
    csrf = CSRFProtect(app)
    programs = (submissions, lookups, actions, compatible, endpoints, stats, streams)
    for module in programs:
        # Their callers prove themselves by a header that no form can send.
        csrf.exempt(module.bp)
    _limit_rates(app, config)
    for module in (*programs, pictures, health, metrics, openapi, pages):
        app.register_blueprint(module.bp)
    app.view_functions["static"] = pages.static
    app.after_request(_page_policy(services))
    failures.register(app)
    return app


def _settings(config: Config) -> dict[str, object]:
    return {
        "SECRET_KEY": config.secret_key,
        "SECRET_KEY_FALLBACKS": list(config.secret_key_fallbacks),
        "SESSION_COOKIE_NAME": "postback",
        "SESSION_COOKIE_SAMESITE": "Lax",
        # An answer to what a script asks for in the background must not put back an older session.
        "SESSION_REFRESH_EACH_REQUEST": False,
        "SESSION_COOKIE_SECURE": config.public_url.startswith("https://"),
        "PERMANENT_SESSION_LIFETIME": timedelta(hours=SESSION_HOURS),
        # As long as the session: a form that was left open over lunch still works.
        "WTF_CSRF_TIME_LIMIT": None,
        "PUBLIC_URL": config.public_url,
        # Anybody may send the form of signing in; what may be larger says so itself.
        "MAX_CONTENT_LENGTH": FORM_BYTES,
    }


def _limit_rates(app: Flask, config: Config) -> None:
    if config.rate_limits == "off":
        return
    limiter = Limiter(
        lambda: str(g.key.id),
        app=app,
        application_limits=[config.rate_limits],
        storage_uri="memory://",
        on_breach=_too_often,
    )
    # Who has no key gets nowhere; what is open to anybody costs nothing that a limit would save.
    limiter.request_filter(lambda: "key" not in g)


def _too_often(broken: RequestLimit) -> Response:
    seconds = max(1, ceil(broken.window.reset_time - time.time()))
    raise HttpError(
        "too_many_requests",
        f"this API key may call {broken.limit}",
        headers={"Retry-After": str(seconds)},
    )


def _page_policy(services: Services) -> Callable[[Response], Response]:
    def add(response: Response) -> Response:
        if response.mimetype == "text/html":
            policy = (
                f"default-src 'none'; img-src 'self'{_image_origin(services)}; style-src 'self'; "
                "script-src 'self'; connect-src 'self'; form-action 'self'; "
                "frame-ancestors 'none'; base-uri 'none'"
            )
            response.headers.setdefault("Content-Security-Policy", policy)
            response.headers.setdefault("Cache-Control", "no-store")
        return response

    return add


def _image_origin(services: Services) -> str:
    """Where images redirect to, if not to here, after a blank."""
    try:
        parts = urlsplit(services.storage.address("any") or "")
    except StorageError:
        return ""
    return f" {parts.scheme}://{parts.netloc}" if parts.netloc else ""

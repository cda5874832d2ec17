"""What a caller has already, which is then not sent again."""

from typing import TYPE_CHECKING

from flask import request

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment


def conditions() -> "WSGIEnvironment":
    """The request for `Response.make_conditional`, without those conditions that do not count here.

    `If-Match` and `If-Unmodified-Since` keep one change from undoing another, and nothing that has
    an `ETag` here can be changed.  werkzeug would answer 412, with the whole body in place of an error.
    """
    ignored = {"HTTP_IF_MATCH", "HTTP_IF_UNMODIFIED_SINCE"}
    return {name: value for name, value in request.environ.items() if name not in ignored}

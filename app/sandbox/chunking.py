"""A POST in chunks of a length that is not told before, which the guarded way out never sends."""

import http.client
from collections.abc import Iterator, Mapping
from urllib.parse import urlsplit

_PIECE_BYTES = 16 * 2**10


def post(url: str, headers: Mapping[str, str], body: bytes, timeout: float) -> int | None:
    """The status that answers; None when nothing does within `timeout` seconds."""
    parts = urlsplit(url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.hostname or "", parts.port, timeout=timeout)
    headers = {**headers, "Transfer-Encoding": "chunked"}
    path = parts._replace(scheme="", netloc="", fragment="").geturl() or "/"
    try:
        connection.request("POST", path, _pieces(body), headers, encode_chunked=True)
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def _pieces(body: bytes) -> Iterator[bytes]:
    for start in range(0, len(body), _PIECE_BYTES):
        yield body[start : start + _PIECE_BYTES]

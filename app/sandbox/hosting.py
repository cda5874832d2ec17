"""The image host: gives out pictures and photographs, as well or as badly as is wished."""

import time
from collections.abc import Iterator
from pathlib import Path

from werkzeug import Request, Response
from werkzeug.exceptions import Forbidden, NotFound, ServiceUnavailable
from werkzeug.utils import redirect, send_file, send_from_directory

from app.sandbox.gallery import CONTENT_TYPES, Gallery, Picture
from app.sandbox.misbehaviours import Word

PHOTOS = Path(__file__).parent / "photos"
_DRIPS = 50


class Host:
    """Answers `GET /images/<id>.<format>` and `GET /photos/<name>`; `ttl` in seconds."""

    def __init__(self, gallery: Gallery, *, ttl: float, private_url: str) -> None:
        self._gallery = gallery
        self._ttl = ttl
        self._private_url = private_url

    def photo(self, request: Request, name: str) -> Response:
        """A photograph to try an edit with; raises `NotFound`."""
        return send_from_directory(PHOTOS, name, request.environ)

    def image(self, request: Request, name: str) -> Response:
        """A picture; raises werkzeug's `HTTPException` when it is gone, expired or so wished."""
        picture = self._gallery.find(name.partition(".")[0])
        if not picture or picture.name != name or Word.IMAGE_404 in picture.wishes:
            raise NotFound
        if time.monotonic() > picture.made_at + self._ttl:
            # As a signed link answers whose time is over.
            raise Forbidden("the link has expired")
        if picture.requests <= picture.wishes.get(Word.IMAGE_503, 0):
            raise ServiceUnavailable
        return self._redirected(request, picture) or _file(request, picture)

    def _redirected(self, request: Request, picture: Picture) -> Response | None:
        if Word.PRIVATE_REDIRECT in picture.wishes:
            return redirect(self._private_url)
        done = request.args.get("redirects", 0, int)
        if done < picture.wishes.get(Word.REDIRECT, 0):
            return redirect(f"{request.path}?redirects={done + 1}")
        return None


def _file(request: Request, picture: Picture) -> Response:
    wrong = Word.WRONG_TYPE in picture.wishes
    content_type = "text/plain" if wrong else CONTENT_TYPES[picture.format]
    if seconds := picture.wishes.get(Word.SLOW_IMAGE):
        data = picture.path.read_bytes()
        headers = {"Content-Length": str(len(data))}
        return Response(_drip(data, seconds), headers=headers, content_type=content_type)
    return send_file(picture.path, request.environ, content_type)


def _drip(data: bytes, seconds: float) -> Iterator[bytes]:
    size = len(data) // _DRIPS + 1
    for start in range(0, len(data), size):
        yield data[start : start + size]
        time.sleep(seconds / _DRIPS)

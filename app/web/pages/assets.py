"""What makes the pages look and work: files with their hash in the address, so that they are kept."""

import gzip
import hashlib
import mimetypes
from dataclasses import dataclass
from pathlib import Path

from flask import Response, current_app, request
from flask.typing import ResponseReturnValue

from app.errors import NotFoundError
from app.web.auth import public
from app.web.conditions import conditions

TEXTS = frozenset({".css", ".js", ".svg", ".txt"})
KEPT = "public, max-age=31536000, immutable"


@dataclass(frozen=True)
class Asset:
    """One file, and the same packed; pages are not packed, because they hold secrets."""

    content: bytes
    packed: bytes | None
    content_type: str
    version: str


class Assets:
    """All files of `folder`, read once."""

    def __init__(self, folder: str) -> None:
        root = Path(folder)
        paths = [path for path in sorted(root.rglob("*")) if path.is_file()]
        self._assets = {path.relative_to(root).as_posix(): _read(path) for path in paths}

    def url(self, name: str) -> str:
        """The address of a file as it is now: another content has another address."""
        return f"/static/{name}?v={self._assets[name].version}"

    def find(self, name: str) -> Asset:
        """Raises `NotFoundError`."""
        if name not in self._assets:
            raise NotFoundError(f"there is nothing at /static/{name[:200]}")
        return self._assets[name]


@public
def static(filename: str) -> ResponseReturnValue:
    """One of the files; kept for good under the address that names its content."""
    assets: Assets = current_app.extensions["assets"]
    asset = assets.find(filename)
    packed = asset.packed if request.accept_encodings["gzip"] else None
    response = Response(packed or asset.content, content_type=asset.content_type)
    response.headers["Vary"] = "Accept-Encoding"
    if packed:
        response.headers["Content-Encoding"] = "gzip"
    newest = request.args.get("v") == asset.version
    response.headers["Cache-Control"] = KEPT if newest else "no-cache"
    response.set_etag(f"{asset.version}{'-gzip' if packed else ''}")
    return response.make_conditional(conditions())


def _read(path: Path) -> Asset:
    content = path.read_bytes()
    kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    text = path.suffix in TEXTS
    return Asset(
        content,
        gzip.compress(content, mtime=0) if text else None,
        f"{kind}; charset=utf-8" if text else kind,
        hashlib.sha256(content).hexdigest()[:10],
    )

"""An edit as either provider is asked for it."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from app.errors import ProviderError


@dataclass(frozen=True)
class Edit:
    """What is to be done.

    A `model` of None leaves the choice to the provider.  An image is a link, an upload, or the file
    in which the upload waits.  `compression` is 0-100, None for the usual; `base64` asks for the
    images themselves instead of links to them.
    """

    prompt: str
    model: str | None
    images: tuple[str | bytes | Path, ...]
    mask: bytes | Path | None = None
    n: int = 1
    size: tuple[int, int] | None = None
    output_format: str = "png"
    compression: int | None = None
    background: str = "auto"
    base64: bool = False

    def spooled(self, spool: Callable[[bytes], Path]) -> "Edit":
        """The same edit, its uploads out of memory and in files that `spool` makes."""
        images = tuple(spool(image) if isinstance(image, bytes) else image for image in self.images)
        mask = spool(self.mask) if isinstance(self.mask, bytes) else self.mask
        return replace(self, images=images, mask=mask)

    def forget(self) -> None:
        """Deletes the files of `spooled`."""
        for file in (*self.images, self.mask):
            if isinstance(file, Path):
                file.unlink(missing_ok=True)


def bad_request(message: str) -> ProviderError:
    """The refusal of a request that breaks a rule."""
    return ProviderError(message, code="bad_request", status=400)

"""Where an edit is done: fetch the images, render the results, spoil them, hang them up."""

from pathlib import Path

from PIL import Image

from app.errors import OutboundError, ProviderError
from app.outbound import Limits, Outbound
from app.sandbox import rendering
from app.sandbox.edits import Edit, bad_request
from app.sandbox.gallery import Gallery, Picture
from app.sandbox.misbehaviours import Wishes, Word
from app.sandbox.spoiling import spoil
from app.wire import Request

_FETCH = Limits(connect=5, read=30, total=60, bytes=50 * 2**20)


class Studio:
    """Makes pictures of edits; does not know which provider was asked."""

    def __init__(self, outbound: Outbound, gallery: Gallery) -> None:
        self._outbound = outbound
        self._gallery = gallery

    def make(self, edit: Edit, wishes: Wishes, *, first: int = 0) -> list[Picture]:
        """The pictures of `edit`, now in the gallery.

        They are `n` variations, or fewer if so wished, beginning with number `first`.
        Raises `ProviderError` with the code and status of the edit's failure.
        """
        if Word.FORBIDDEN in wishes:
            raise ProviderError(
                "the request was rejected by the safety system", code="forbidden", status=403
            )
        images = [self._open(image) for image in edit.images]
        mask = rendering.open_image(edit.mask, "mask") if edit.mask else None
        return [
            self._gallery.add(
                spoil(rendering.render(images, mask, edit, index), _for(index - first, wishes)),
                edit.output_format,
                wishes,
            )
            for index in range(first, first + _count(edit, wishes))
        ]

    def _open(self, image: str | bytes | Path) -> Image.Image:
        source = self._fetch(image) if isinstance(image, str) else image
        return rendering.open_image(source, "image")

    def _fetch(self, url: str) -> bytes:
        try:
            with self._outbound.stream(Request("GET", url), _FETCH, redirects=3) as answer:
                if answer.status == 200:
                    return b"".join(answer)
                reason = f"the host answers {answer.status}"
        except OutboundError as error:
            reason = str(error)
        raise bad_request(f"image {url} cannot be downloaded: {reason}")


def _for(place: int, wishes: Wishes) -> Wishes:
    """What is to be wrong with the image at `place`: one that is huge is enough."""
    return wishes if place == 0 else {word: n for word, n in wishes.items() if word != Word.HUGE}


def _count(edit: Edit, wishes: Wishes) -> int:
    if Word.PARTIAL in wishes:
        return max(1, int(min(edit.n - 1, wishes[Word.PARTIAL])))
    return edit.n

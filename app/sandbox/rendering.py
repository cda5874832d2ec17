"""From the images of an edit to image files, with Pillow and always the same for the same input."""

import io
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageOps, UnidentifiedImageError

from app.errors import ProviderError
from app.sandbox import effects
from app.sandbox.edits import Edit, bad_request

INPUT_FORMATS = ("PNG", "WEBP", "JPEG")
_MAX_INPUT_PIXELS = 64_000_000
_DEFAULT_QUALITY = 90


def open_image(source: Path | bytes, name: str) -> Image.Image:
    """The image of a PNG, WebP or JPEG file as RGBA, turned upright.

    Raises `ProviderError`, a 400, that calls the image `name`.
    """
    file = io.BytesIO(source) if isinstance(source, bytes) else source
    try:
        with Image.open(file, formats=INPUT_FORMATS) as image:
            _check_pixels(image, name)
            return ImageOps.exif_transpose(image).convert("RGBA")
    except UnidentifiedImageError:
        raise bad_request(f"{name} is no PNG, WebP or JPEG image") from None
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise bad_request(f"{name} cannot be read: {error}") from None


def render(
    images: Sequence[Image.Image], mask: Image.Image | None, edit: Edit, index: int
) -> bytes:
    """The file of the edit's result number `index` (from 0); the results differ in brightness."""
    first = images[0]
    changed = _vary(effects.apply(_with_insets(images), edit.prompt), index)
    if mask:
        changed = _inside(mask, changed, first)
    if edit.size:
        changed = ImageOps.fit(changed, edit.size)
    return encode(_with_background(changed, edit.background), edit)


def unfinished(path: Path, edit: Edit, share: float) -> bytes:
    """The picture as it was when that `share` of the work (0 to 1) was done: blurred.

    A picture that was spoiled is as it is.
    """
    try:
        with Image.open(path, formats=INPUT_FORMATS) as image:
            _check_pixels(image, "picture")
            blurred = image.convert("RGBA").filter(ImageFilter.GaussianBlur(12 * (1 - share)))
    except (OSError, SyntaxError, ProviderError, Image.DecompressionBombError):
        return path.read_bytes()
    return encode(blurred, edit)


def encode(image: Image.Image, edit: Edit) -> bytes:
    """The image file in the edit's format and compression."""
    file = io.BytesIO()
    if edit.output_format == "png":
        # The fastest level: a load test must not measure the sandbox.
        image.save(file, "PNG", compress_level=1)
    else:
        quality = _DEFAULT_QUALITY if edit.compression is None else edit.compression
        image = image if edit.output_format == "webp" else _opaque(image).convert("RGB")
        image.save(file, edit.output_format, quality=quality)
    return file.getvalue()


def _check_pixels(image: Image.Image, name: str) -> None:
    if image.width * image.height > _MAX_INPUT_PIXELS:
        raise bad_request(f"{name} has {image.width}x{image.height} pixels, which is too many")


def _with_insets(images: Sequence[Image.Image]) -> Image.Image:
    """The first image with the others as small pictures along its top: so all can be seen."""
    canvas = images[0].copy()
    side = max(1, canvas.width // 16)
    for place, image in enumerate(images[1:]):
        canvas.alpha_composite(ImageOps.fit(image, (side, side)), (place * side, 0))
    return canvas


def _vary(image: Image.Image, index: int) -> Image.Image:
    changed = ImageEnhance.Brightness(image.convert("RGB")).enhance(0.94**index)
    changed.putalpha(image.getchannel("A"))
    return changed


def _inside(mask: Image.Image, changed: Image.Image, original: Image.Image) -> Image.Image:
    """The change where `mask` is fully transparent, as the providers have it; else the original."""
    where = mask.getchannel("A").point(lambda alpha: 0 if alpha else 255)
    # Turning the image turned its shape as well.
    changed = changed.resize(original.size)
    return Image.composite(changed, original, where)


def _with_background(image: Image.Image, background: str) -> Image.Image:
    if background == "opaque":
        return _opaque(image)
    if background == "transparent":
        image.putalpha(_oval(image.size))
    return image


def _opaque(image: Image.Image) -> Image.Image:
    ground = Image.new("RGBA", image.size, "white")
    ground.alpha_composite(image)
    return ground


def _oval(size: tuple[int, int]) -> Image.Image:
    """A stand-in for finding the subject: everything outside an oval is background."""
    alpha = Image.new("L", size, 0)
    ImageDraw.Draw(alpha).ellipse((0, 0, size[0] - 1, size[1] - 1), fill=255)
    return alpha

"""What the providers refuse, by model.

The rules are those of Ace Data Cloud's published schema; AGCloud's parameter table has the same.
"""

import io
from dataclasses import dataclass

from PIL import Image, UnidentifiedImageError

from app.sandbox.edits import Edit, bad_request

INPUT_FORMATS = ("PNG", "WEBP", "JPEG")
MAX_IMAGES = 16
_MAX_UPLOAD_BYTES = 50 * 2**20
_MAX_SMALL_BYTES = 4 * 2**20
_MAX_SIDE = 3840


@dataclass(frozen=True)
class Limits:
    """What one model takes; `sizes` of None is any, `stepped` the rule of gpt-image-2."""

    prompt: int = 32_000
    n: int = 10
    sizes: tuple[str, ...] | None = None
    stepped: bool = False


_GPT_IMAGE_1 = Limits(sizes=("1024x1024", "1536x1024", "1024x1536"))
_LIMITS = {
    "dall-e-2": Limits(prompt=1000, sizes=("256x256", "512x512", "1024x1024")),
    "dall-e-3": Limits(n=1),
    "gpt-image-1": _GPT_IMAGE_1,
    "gpt-image-1.5": _GPT_IMAGE_1,
}


def limits_of(model: str | None) -> Limits:
    """The limits of that model; an unknown or unnamed one has only the general ones."""
    name = model or ""
    return _LIMITS.get(name) or Limits(stepped=name.startswith(("gpt-image-2", "git-image-2")))


def check(edit: Edit, quality: str) -> None:
    """Raises `ProviderError`, a 400 that names the first broken rule."""
    _check_text(edit)
    _check_images(edit)
    _check_size(edit)
    _check_output(edit)
    if (edit.model == "dall-e-2" and quality not in {"auto", "standard"}) or (
        edit.model != "dall-e-2" and quality == "standard"
    ):
        raise bad_request(f"quality {quality} does not go with {edit.model}")


def _check_text(edit: Edit) -> None:
    limits = limits_of(edit.model)
    if not edit.prompt:
        raise bad_request("prompt is missing")
    if len(edit.prompt) > limits.prompt:
        raise bad_request(f"prompt has {len(edit.prompt)} characters, more than {limits.prompt}")
    if edit.n > limits.n:
        raise bad_request(f"n must be at most {limits.n} for {edit.model}")


def _check_images(edit: Edit) -> None:
    if not edit.images:
        raise bad_request("image is missing")
    if len(edit.images) > MAX_IMAGES:
        raise bad_request(f"{len(edit.images)} images are more than {MAX_IMAGES}")
    uploads = [image for image in edit.images if isinstance(image, bytes)]
    for upload in uploads:
        _open(upload, "image")
    if edit.model == "dall-e-2":
        _check_dall_e_2(edit, uploads)
    if isinstance(edit.mask, bytes):
        _check_mask(edit.mask, uploads)


def _check_dall_e_2(edit: Edit, uploads: list[bytes]) -> None:
    if len(edit.images) > 1:
        raise bad_request("dall-e-2 takes one image")
    for upload in uploads:
        image = _open(upload, "image", _MAX_SMALL_BYTES)
        if image.format != "PNG" or image.width != image.height:
            raise bad_request("dall-e-2 takes a square PNG")


def _check_mask(mask: bytes, uploads: list[bytes]) -> None:
    if not uploads:
        raise bad_request("a mask goes with an uploaded image, not with a URL")
    image = _open(mask, "mask", _MAX_SMALL_BYTES)
    if image.format != "PNG" or not image.has_transparency_data:
        raise bad_request("mask must be a PNG with an alpha channel")
    size = _open(uploads[0], "image").size
    if image.size != size:
        raise bad_request(f"mask is {_text(image.size)}, the first image {_text(size)}")


def _open(data: bytes, name: str, limit: int = _MAX_UPLOAD_BYTES) -> Image.Image:
    if len(data) >= limit:
        raise bad_request(f"{name} has {len(data)} bytes, the limit is {limit}")
    try:
        # Only the header is read, so that there is nothing to close.
        return Image.open(io.BytesIO(data), formats=INPUT_FORMATS)
    except (UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise bad_request(f"{name} is no PNG, WebP or JPEG image: {error}") from None


def _check_size(edit: Edit) -> None:
    limits = limits_of(edit.model)
    if not edit.size:
        return
    if limits.sizes and _text(edit.size) not in limits.sizes:
        raise bad_request(f"size must be one of {', '.join(limits.sizes)} for {edit.model}")
    if limits.stepped and not _steps(*edit.size):
        raise bad_request(
            "size must have sides that are multiples of 16, the long one up to 3840 and up to three "
            "times the short one, and from 655360 to 8294400 pixels"
        )
    if max(edit.size) > _MAX_SIDE:
        raise bad_request(f"size must have sides up to {_MAX_SIDE}")


def _steps(width: int, height: int) -> bool:
    return (
        width % 16 == height % 16 == 0
        and max(width, height) <= min(3840, 3 * min(width, height))
        and 655_360 <= width * height <= 8_294_400
    )


def _check_output(edit: Edit) -> None:
    if edit.compression is not None and edit.output_format == "png":
        raise bad_request("output_compression goes with jpeg or webp only")
    if edit.background == "transparent" and edit.output_format == "jpeg":
        raise bad_request("background transparent goes with png or webp only")
    if edit.base64 and edit.n > 1:
        raise bad_request("response_format b64_json goes with n=1 only")


def _text(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"

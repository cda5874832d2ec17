"""What a prompt can ask of an image: a few effects by their names, else a tint and a caption."""

import hashlib
import re
from collections.abc import Callable

from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageFont, ImageOps

Effect = Callable[[Image.Image], Image.Image]

_CAPTION_LINES = 3


def apply(image: Image.Image, prompt: str) -> Image.Image:
    """The RGBA `image` with the effects that `prompt` names, in the order of their names in it.

    A prompt that names none colours the image and is written on it.  Equal input, equal output.
    """
    found = [(match.start(), effect) for name, effect in _EFFECTS if (match := name.search(prompt))]
    for _, effect in sorted(found, key=lambda item: item[0]):
        image = effect(image)
    return image if found else _caption(_tint(_colour_of(prompt))(image), prompt)


def _on_colours(change: Effect) -> Effect:
    """The effect on the colours alone: transparency stays as it is."""

    def effect(image: Image.Image) -> Image.Image:
        changed = change(image.convert("RGB")).convert("RGBA")
        changed.putalpha(image.getchannel("A"))
        return changed

    return effect


def _sepia(image: Image.Image) -> Image.Image:
    return ImageOps.colorize(image.convert("L"), black="#1e1208", white="#fff0d2", mid="#a07850")


def _blur(image: Image.Image) -> Image.Image:
    return image.filter(ImageFilter.GaussianBlur(max(2, min(image.size) // 60)))


def _sharpen(image: Image.Image) -> Image.Image:
    return image.filter(ImageFilter.UnsharpMask(radius=2, percent=200, threshold=0))


def _pixelate(image: Image.Image) -> Image.Image:
    return image.reduce(_block(image)).resize(image.size, Image.Resampling.NEAREST)


def _block(image: Image.Image) -> int:
    return max(2, min(image.size) // 32)


def _brightness(factor: float) -> Effect:
    return lambda image: ImageEnhance.Brightness(image).enhance(factor)


def _tint(colour: str | tuple[int, int, int]) -> Effect:
    return _on_colours(lambda image: Image.blend(image, Image.new("RGB", image.size, colour), 0.45))


def _colour_of(prompt: str) -> tuple[int, int, int]:
    red, green, blue = hashlib.sha256(prompt.encode()).digest()[:3]
    return red, green, blue


def _caption(image: Image.Image, text: str) -> Image.Image:
    size = max(10, image.height // 18)
    font = ImageFont.load_default(size)
    lines = _wrapped(text, font, image.width - size)
    top = image.height - int(size * (1.4 * len(lines) + 0.6))
    band = Image.new("RGBA", (image.width, image.height - top), (0, 0, 0, 160))
    draw = ImageDraw.Draw(band)
    for number, line in enumerate(lines):
        draw.text((size // 2, size * (0.4 + 1.4 * number)), line, "white", font)
    image = image.copy()
    image.alpha_composite(band, (0, top))
    return image


def _wrapped(
    text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int
) -> list[str]:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return [line for line in lines if line][:_CAPTION_LINES]


def _named(words: str, effect: Effect) -> tuple[re.Pattern[str], Effect]:
    return re.compile(rf"\b(?:{words})\b", re.IGNORECASE), effect


_EFFECTS = [
    _named(r"gr[ae]y(?: ?scale)?|black[ -]and[ -]white", _on_colours(ImageOps.grayscale)),
    _named(r"sepia|vintage", _on_colours(_sepia)),
    _named(r"invert(?:ed)?|negative", _on_colours(ImageOps.invert)),
    _named(r"blur(?:red|ry)?", _on_colours(_blur)),
    _named(r"sharpen(?:ed)?|sharper", _on_colours(_sharpen)),
    _named(r"pixelated?|pixel art|mosaic", _pixelate),
    _named(r"mirror(?:ed)?", ImageOps.mirror),
    _named(r"flip(?:ped)?|upside[ -]down", ImageOps.flip),
    _named(r"rotated?", lambda image: image.transpose(Image.Transpose.ROTATE_270)),
    _named(r"posteri[sz]ed?|poster", _on_colours(lambda image: ImageOps.posterize(image, 2))),
    _named(r"edges?|outlines?", _on_colours(lambda image: image.filter(ImageFilter.FIND_EDGES))),
    _named(r"brighter|brighten", _on_colours(_brightness(1.5))),
    _named(r"darker|darken", _on_colours(_brightness(0.5))),
    _named(r"red", _tint("red")),
    _named(r"green", _tint("lime")),
    _named(r"blue", _tint("blue")),
]  # fmt: skip

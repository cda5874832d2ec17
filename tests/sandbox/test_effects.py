"""Each effect does to the pixels what its name says."""

import pytest
from PIL import Image, ImageChops, ImageFilter, ImageOps, ImageStat

from app.sandbox import effects
from app.sandbox.hosting import PHOTOS


@pytest.fixture(scope="module")
def photo() -> Image.Image:
    with Image.open(PHOTOS / "chelsea.png") as image:
        return image.convert("RGBA")


def mean(image: Image.Image) -> list[float]:
    return ImageStat.Stat(image.convert("RGB")).mean


def detail(image: Image.Image) -> float:
    return ImageStat.Stat(image.convert("L").filter(ImageFilter.FIND_EDGES)).mean[0]


def same(one: Image.Image, other: Image.Image) -> bool:
    return (
        one.size == other.size
        and ImageChops.difference(one.convert("RGB"), other.convert("RGB")).getbbox() is None
    )


@pytest.mark.parametrize("prompt", ["grayscale", "in black and white", "Make it GREY"])
def test_grayscale_leaves_no_colour(photo: Image.Image, prompt: str) -> None:
    red, green, blue, _ = effects.apply(photo, prompt).split()

    assert red.tobytes() == green.tobytes() == blue.tobytes()
    assert detail(effects.apply(photo, prompt)) == pytest.approx(detail(photo), rel=0.05)


def test_sepia_is_brown_and_invert_turns_each_channel_round(photo: Image.Image) -> None:
    sepia = effects.apply(photo, "sepia")
    red, green, blue, _ = sepia.split()

    assert ImageChops.subtract(green, red).getbbox() is None
    assert ImageChops.subtract(blue, green).getbbox() is None
    assert mean(sepia)[0] > mean(sepia)[2] + 30
    assert same(effects.apply(photo, "invert"), ImageChops.invert(photo.convert("RGB")))


def test_blur_takes_detail_away_and_sharpen_adds_it(photo: Image.Image) -> None:
    assert detail(effects.apply(photo, "blur")) < detail(photo) / 2
    assert detail(effects.apply(photo, "sharpen")) > detail(photo) * 1.5
    assert mean(effects.apply(photo, "blur")) == pytest.approx(mean(photo), abs=2)


def test_pixelate_and_posterize_leave_few_colours(photo: Image.Image) -> None:
    colours = effects.apply(photo, "pixelate").getcolors(photo.width * photo.height)

    assert colours
    assert len(colours) <= 51 * 34
    levels = [band.getcolors() or [] for band in effects.apply(photo, "posterize").split()[:3]]
    assert all(1 < len(level) <= 4 for level in levels)


def test_what_moves_pixels_puts_the_first_corner_elsewhere(photo: Image.Image) -> None:
    width, height = photo.size
    corners = {"mirror": (width - 1, 0), "flip": (0, height - 1), "rotate it": (height - 1, 0)}
    for prompt, corner in corners.items():
        changed = effects.apply(photo, prompt)
        assert changed.getpixel(corner) == photo.getpixel((0, 0))
        assert not same(changed, photo)
    assert effects.apply(photo, "rotate it").size == (height, width)


def test_edges_are_bright_and_planes_are_dark(photo: Image.Image) -> None:
    plane = Image.new("RGBA", (64, 64), "orange")

    assert max(mean(effects.apply(plane, "edges").crop((8, 8, 56, 56)))) == 0
    assert mean(effects.apply(photo, "edges"))[0] > 5


def test_brightness_and_colours_grow_and_shrink(photo: Image.Image) -> None:
    before = mean(photo)
    assert sum(mean(effects.apply(photo, "brighter"))) > sum(before) * 1.2
    assert sum(mean(effects.apply(photo, "darker"))) < sum(before) * 0.6
    for channel, colour in enumerate(("red", "green", "blue")):
        after = mean(effects.apply(photo, f"a {colour} cat"))
        grown = [new > old for new, old in zip(after, before, strict=True)]
        assert grown == [number == channel for number in range(3)]


def test_effects_come_in_the_order_of_their_names(photo: Image.Image) -> None:
    gray_last = effects.apply(photo, "red, then grayscale")
    red_last = effects.apply(photo, "grayscale, then red")

    assert len(set(mean(gray_last))) == 1
    assert mean(red_last)[0] > mean(red_last)[1]


def test_a_name_within_a_word_is_none(photo: Image.Image) -> None:
    # "bored" and "covered" are not red.
    assert not same(effects.apply(photo, "bored"), effects.apply(photo, "red"))
    assert same(
        effects.apply(photo, "covered in mirror").convert("RGB"),
        ImageOps.mirror(photo.convert("RGB")),
    )


def test_any_other_prompt_is_written_on_a_tinted_image(photo: Image.Image) -> None:
    image, long = (
        effects.apply(photo, text) for text in ("a dragon", "a dragon that flies " * 150)
    )
    rest = (0, 0, 451, 240)

    # White letters in the band, and nowhere else as much white.
    assert _white(image.crop((0, 260, 451, 300))) > 50
    assert _white(image.crop(rest)) == 0
    assert not same(image.crop(rest), photo.crop(rest))
    assert not same(image, effects.apply(photo, "a knight"))
    # Three lines of a long one, and no more of it.
    assert _white(long.crop((0, 225, 451, 260))) > 50
    assert _white(long.crop((0, 0, 451, 220))) == 0


@pytest.mark.parametrize("prompt", ["a", "ß" * 300, "龍", "", "a\nb"])
def test_any_text_and_the_smallest_image_can_be_edited(prompt: str) -> None:
    dot = Image.new("RGBA", (1, 1), "red")

    assert effects.apply(dot, prompt).size == (1, 1)
    assert effects.apply(dot, f"{prompt} blur pixelate posterize").size == (1, 1)


def test_transparency_stays(photo: Image.Image) -> None:
    half = photo.copy()
    half.putalpha(Image.linear_gradient("L").resize(photo.size))

    assert effects.apply(half, "sepia").getchannel("A").tobytes() == half.getchannel("A").tobytes()
    assert (
        effects.apply(half, "flip").getchannel("A").tobytes()
        == ImageOps.flip(half.getchannel("A")).tobytes()
    )


def _white(image: Image.Image) -> int:
    return image.convert("L").point(lambda level: 255 if level > 245 else 0).histogram()[255]

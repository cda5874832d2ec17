"""Files of a form: what their first bytes say, and what the rules make of that."""

import io
from typing import Any

import pytest
from PIL import Image as Pillow

from app.errors import InvalidFieldError
from app.providers.acedata import RULES
from app.providers.rules import FileFacts, Header, facts_of, read_header
from tests.factories import submission

MB = 2**20
FIELDS = submission(image=None)


def encoded(
    form: str, mode: str = "RGB", side: tuple[int, int] = (31, 17), **options: Any
) -> bytes:
    file = io.BytesIO()
    Pillow.new(mode, side).save(file, form, **options)
    return file.getvalue()


PNG, JPEG, WEBP = encoded("PNG"), encoded("JPEG"), encoded("WEBP")
WITH_COMMENT = encoded("JPEG", comment=b"x" * 60_000, progressive=True)
SEEN_THROUGH = encoded("PNG", "P", transparency=0)


@pytest.mark.parametrize(
    ("data", "header"),
    [
        (PNG, Header("png", 31, 17)),
        (encoded("PNG", "RGBA"), Header("png", 31, 17, alpha=True)),
        (encoded("PNG", "LA"), Header("png", 31, 17, alpha=True)),
        (SEEN_THROUGH, Header("png", 31, 17, alpha=True)),
        (JPEG, Header("jpeg", 31, 17)),
        (WITH_COMMENT, Header("jpeg", 31, 17)),
        (JPEG[:2] + b"\xff\xff" + JPEG[2:], Header("jpeg", 31, 17)),
        (WEBP, Header("webp", 31, 17)),
        (encoded("WEBP", lossless=True), Header("webp", 31, 17)),
        (encoded("WEBP", "RGBA", lossless=True), Header("webp", 31, 17, alpha=True)),
        (encoded("WEBP", "RGBA", exif=b"Exif\0\0"), Header("webp", 31, 17, alpha=True)),
        (encoded("GIF"), None),
        (b"", None),
        (b"<svg>", None),
    ],
)
def test_the_first_bytes_say_what_an_image_is(data: bytes, header: Header | None) -> None:
    assert read_header(io.BytesIO(data)) == header


@pytest.mark.parametrize("data", [PNG, SEEN_THROUGH, JPEG, WITH_COMMENT, WEBP])
def test_a_head_that_is_cut_short_or_broken_is_none_and_no_error(data: bytes) -> None:
    for end in range(min(len(data), 700)):
        cut = read_header(io.BytesIO(data[:end]))
        assert cut is None or (cut.width, cut.height) == (31, 17)
        for byte in (0x00, 0xFF):
            read_header(io.BytesIO(data[:end] + bytes([byte]) + data[end + 1 :]))


def test_a_file_is_what_its_bytes_are_or_begin_with() -> None:
    assert str(facts_of(io.BytesIO(JPEG), len(JPEG))) == "jpeg of 31x17"
    assert str(facts_of(io.BytesIO(b"GIF89a"), 6)) == "a file that begins with b'GIF89a'"
    assert str(facts_of(io.BytesIO(), 0)) == "an empty file"


def image(form: str = "png", side: int = 64, height: int = 64, *, size: int = 1) -> FileFacts:
    return FileFacts(size, Header(form, side, height, alpha=False))


def mask(form: str = "png", side: int = 64, *, alpha: bool = True, size: int = 1) -> FileFacts:
    return FileFacts(size, Header(form, side, 64, alpha))


ONE = [image()]
INSIDE: list[tuple[str, dict[str, list[FileFacts]]]] = [
    ("gpt-image-2", {"image": [image("png"), image("webp", 9), image("jpeg", 9)]}),
    ("gpt-image-2", {"image": [image(size=50 * MB - 1)] * 16}),
    ("gpt-image-2", {"image": [image(), image("jpeg", 9)], "mask": [mask(size=4 * MB)]}),
    ("dall-e-2", {"image": [image(size=4 * MB - 1)], "mask": [mask()]}),
    ("a-model-of-next-month", {"image": [image("webp", 9, 3000)]}),
]
OUTSIDE: list[tuple[str, dict[str, list[FileFacts]], str]] = [
    ("gpt-image-2", {"image": ONE * 17}, "image: expected at most 16 files, not 17"),
    ("gpt-image-2", {"image": [image(size=50 * MB)]}, "image: expected a file of at most 52,428,799"),
    ("gpt-image-2", {"image": [image("gif")]}, "image: expected png or webp or jpeg, not gif of"),
    ("gpt-image-2", {"image": [FileFacts(5, None, b"%PDF")]}, "not a file that begins with b'%PDF'"),
    ("gpt-image-2", {"mask": [mask()]}, "image is missing"),
    ("gpt-image-2", {"image": ONE, "mask": [mask()] * 2}, "mask: expected at most 1 file, not 2"),
    ("gpt-image-2", {"image": ONE, "mask": [mask("webp")]}, "mask: expected png, not webp"),
    ("gpt-image-2", {"image": ONE, "mask": [mask(alpha=False)]}, "mask: expected an image with an alpha"),
    ("gpt-image-2", {"image": ONE, "mask": [mask(size=4 * MB + 1)]}, "mask: expected a file of at most"),
    (
        "gpt-image-2",
        {"image": [image(), image(side=9)], "mask": [mask(side=9)]},
        "mask: expected the size of the first image, 64x64, not 9x64",
    ),
    ("dall-e-2", {"image": ONE * 2}, "image: expected at most 1 file, not 2"),
    ("dall-e-2", {"image": [image("jpeg")]}, "image: expected png, not jpeg"),
    ("dall-e-2", {"image": [image(height=65)]}, "image: expected a square image, not 64x65"),
    ("dall-e-2", {"image": [image(size=4 * MB)]}, "image: expected a file of at most 4,194,303"),
]  # fmt: skip


@pytest.mark.parametrize(("model", "files"), INSIDE)
def test_files_just_inside_the_rules_are_taken(
    model: str, files: dict[str, list[FileFacts]]
) -> None:
    RULES.check({**FIELDS, "model": model}, files)


@pytest.mark.parametrize(("model", "files", "message"), OUTSIDE)
def test_files_just_outside_the_rules_are_refused(
    model: str, files: dict[str, list[FileFacts]], message: str
) -> None:
    with pytest.raises(InvalidFieldError) as caught:
        RULES.check({**FIELDS, "model": model}, files)
    assert message in str(caught.value)
    assert str(caught.value).startswith(str(caught.value.param))


def test_files_and_urls_do_not_mix() -> None:
    with pytest.raises(InvalidFieldError, match="image: expected files or URLs, not both"):
        RULES.check(submission(), {"image": ONE})
    with pytest.raises(InvalidFieldError, match="mask needs image to be a file, too"):
        RULES.check(submission(), {"mask": [mask()]})

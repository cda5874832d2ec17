"""What an image file really is, judged by its bytes in a process of its own."""

import io
import json
import os
import signal
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import psutil
import pytest
from PIL import Image

from app import imaging
from app.errors import ImageError, UnavailableError
from app.imaging import Facts

MAX_PIXELS = 1_000_000


def inspect(data: bytes, *, max_pixels: int = MAX_PIXELS) -> Facts:
    with tempfile.TemporaryFile() as file:
        file.write(data)
        return imaging.inspect(file, max_pixels=max_pixels)


def refusal(data: bytes, *, max_pixels: int = MAX_PIXELS) -> ImageError:
    with pytest.raises(ImageError) as caught:
        inspect(data, max_pixels=max_pixels)
    assert caught.value.permanent
    return caught.value


def thumbnail(facts: Facts) -> Image.Image:
    image = Image.open(io.BytesIO(facts.thumbnail))
    assert image.format == "WEBP"
    return image


def saved(image: Image.Image, format_: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, format_, **options)
    return file.getvalue()


def red(mode: str = "RGB", size: tuple[int, int] = (600, 300)) -> Image.Image:
    return Image.new("RGB", size, "red").convert(mode)


def noise() -> Image.Image:
    return Image.effect_noise((300, 300), 60).convert("RGB")


def frames(count: int, format_: str) -> bytes:
    images = [Image.new("RGB", (8, 8), (number % 256, number // 256, 0)) for number in range(count)]
    return saved(images[0], format_, save_all=True, append_images=images[1:])


def bomb(width: int, height: int) -> bytes:
    """A PNG file of a few bytes that says it has so many pixels."""

    def chunk(name: bytes, data: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(name + data))
        return struct.pack(">I", len(data)) + name + data + checksum

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(bytes(1000))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    )


# A photograph with a second picture inside was an unexpected error.
MPO = saved(red(), "MPO", save_all=True, append_images=[red()])


@pytest.mark.parametrize(
    ("data", "content_type", "extension"),
    [
        (saved(red(), "PNG"), "image/png", "png"),
        (saved(red(), "JPEG"), "image/jpeg", "jpg"),
        (saved(red(), "WEBP"), "image/webp", "webp"),
        (saved(red(), "GIF"), "image/gif", "gif"),
        (saved(red("P"), "PNG"), "image/png", "png"),
        (saved(red("RGBA"), "PNG"), "image/png", "png"),
        (saved(red("CMYK"), "JPEG"), "image/jpeg", "jpg"),
        (MPO, "image/jpeg", "jpg"),
    ],
)
def test_the_bytes_decide_what_an_image_is(data: bytes, content_type: str, extension: str) -> None:
    facts = inspect(data)

    assert (facts.content_type, facts.extension) == (content_type, extension)
    assert (facts.width, facts.height) == (600, 300)
    small = thumbnail(facts)
    assert small.size == (480, 240)
    red_part, green, blue = small.convert("RGB").getpixel((100, 100))  # type: ignore[misc]
    assert red_part > 240
    assert max(green, blue) < 20


def test_sixteen_bits_of_grey_had_a_white_thumbnail() -> None:
    small = thumbnail(inspect(saved(Image.new("I;16", (20, 20), 128 * 257), "PNG")))
    assert small.convert("L").getpixel((5, 5)) in range(126, 131)


@pytest.mark.parametrize(
    ("image", "size"),
    [
        (red("1"), (480, 240)),
        (red("L"), (480, 240)),
        (red("LA"), (480, 240)),
        # A small one is not enlarged, and a line of pixels does not vanish.
        (red(size=(5, 3)), (5, 3)),
        (red(size=(1, 5000)), (1, 480)),
        (red(size=(5000, 1)), (480, 1)),
    ],
)
def test_a_thumbnail_fits_into_its_frame(image: Image.Image, size: tuple[int, int]) -> None:
    assert thumbnail(inspect(saved(image, "PNG"))).size == size


def test_what_can_be_seen_through_stays_so_in_the_thumbnail() -> None:
    for data in (
        saved(Image.new("RGBA", (20, 20), (255, 0, 0, 0)), "PNG"),
        saved(Image.new("P", (20, 20), 0), "PNG", transparency=0),
    ):
        assert thumbnail(inspect(data)).convert("RGBA").getpixel((5, 5))[3] == 0  # type: ignore[index]


def test_a_thumbnail_is_turned_as_the_camera_says() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    facts = inspect(saved(red(), "JPEG", exif=exif))
    assert (facts.width, facts.height) == (600, 300)
    assert thumbnail(facts).size == (240, 480)


@pytest.mark.parametrize("format_", ["GIF", "PNG", "WEBP"])
def test_an_animation_is_shown_by_its_first_frame(format_: str) -> None:
    facts = inspect(frames(5, format_))
    assert (facts.width, facts.height) == (8, 8)
    assert getattr(thumbnail(facts), "n_frames", 1) == 1


def test_an_animation_with_too_many_frames_is_refused() -> None:
    error = refusal(frames(imaging.MAX_FRAMES + 1, "GIF"))
    assert error.code == "too_many_frames"
    assert str(error) == "201 frames, at most 200 are allowed"
    assert inspect(frames(imaging.MAX_FRAMES, "GIF")).width == 8


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"<html><body>Not found</body></html>",
        b'<svg xmlns="http://www.w3.org/2000/svg"/>',
        saved(red(), "TIFF"),
        saved(red(), "BMP"),
        b"%PDF-1.7",
        b"\x89PNG",
        bytes(5000),
    ],
)
def test_what_is_none_of_the_four_formats_is_no_image(data: bytes) -> None:
    error = refusal(data)
    assert error.code == "not_an_image"
    assert str(error) == f"begins with {data[:16]!r}: none of PNG, JPEG, WEBP, GIF"


@pytest.mark.parametrize("format_", ["PNG", "JPEG", "WEBP", "GIF"])
@pytest.mark.parametrize("part", [0.1, 0.5, 0.98])
def test_an_image_that_is_cut_short_is_refused(format_: str, part: float) -> None:
    data = saved(noise(), format_)
    assert refusal(data[: int(len(data) * part)]).code == "truncated_image"


def test_an_image_with_a_wrong_checksum_or_fewer_pixels_than_it_says_is_refused() -> None:
    data = bytearray(saved(noise(), "PNG"))
    data[-40] ^= 0xFF
    for broken in (bytes(data), bomb(1000, 1000)):
        assert refusal(broken).code == "truncated_image"


@pytest.mark.parametrize("size", [(1001, 1000), (100_000, 100_000), (2**31 - 1, 1)])
def test_too_many_pixels_are_refused_before_they_are_decoded(size: tuple[int, int]) -> None:
    error = refusal(bomb(*size))
    assert error.code == "too_many_pixels"
    assert "at most 1,000,000 are allowed" in str(error)
    assert inspect(saved(Image.new("L", (1000, 1000)), "PNG")).width == 1000


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image that has 75 MB when it is decoded."""
    path = tmp_path_factory.mktemp("imaging") / "large.png"
    path.write_bytes(saved(Image.new("RGB", (5000, 5000), "red"), "PNG"))
    return path


def test_a_large_image_costs_this_process_nothing(large: Path) -> None:
    process = psutil.Process()
    before = process.memory_info().rss
    with large.open("rb") as file:
        assert imaging.inspect(file, max_pixels=25_000_000).width == 5000
    assert process.memory_info().rss - before < 20 * 2**20


def test_an_image_that_takes_more_memory_than_allowed_is_refused(large: Path) -> None:
    program = [sys.executable, "-I", str(Path(imaging.__file__).with_name("decode.py"))]
    # In kilobytes, and less than what the program would allow itself.
    limited = ["sh", "-c", 'ulimit -v 140000 && exec "$@"', "sh", *program]
    with large.open("rb") as file:
        output = subprocess.check_output(  # noqa: S603 - our own program
            [*limited, "25000000", "200", "480", "60"], stdin=file
        )
    assert json.loads(output)["error"] == "image_too_large"


@contextmanager
def meeting_a_decoder(do: Callable[[psutil.Process], object]) -> Iterator[Future[object]]:
    """Do something to the next decoder that this process starts; what came of it."""

    def meet() -> object:
        while not (found := _decoders()):
            time.sleep(0.01)
        return do(found[0])

    with ThreadPoolExecutor() as pool:
        meeting = pool.submit(meet)
        yield meeting
        meeting.result()


def signalled(number: signal.Signals) -> AbstractContextManager[object]:
    """The next decoder that this process starts is sent that signal."""
    return meeting_a_decoder(lambda decoder: decoder.send_signal(number))


def _decoders() -> list[psutil.Process]:
    children = psutil.Process().children()
    return [child for child in children if "decode.py" in " ".join(child.cmdline())]


def test_a_decoder_that_the_machine_kills_is_no_fault_of_the_image(large: Path) -> None:
    with (
        large.open("rb") as file,
        signalled(signal.SIGKILL),
        pytest.raises(ImageError, match="killed") as caught,
    ):
        imaging.inspect(file, max_pixels=25_000_000)
    assert not caught.value.permanent


def test_ctrl_c_in_a_terminal_does_not_reach_a_decoder(large: Path) -> None:
    with (
        large.open("rb") as file,
        meeting_a_decoder(lambda decoder: os.getpgid(decoder.pid)) as group,
    ):
        imaging.inspect(file, max_pixels=25_000_000)
    assert group.result() != os.getpgrp()


def test_a_decoder_that_is_told_to_end_with_its_worker_has_judged_nothing(large: Path) -> None:
    with (
        large.open("rb") as file,
        signalled(signal.SIGTERM),
        pytest.raises(UnavailableError, match="told to end"),
    ):
        imaging.inspect(file, max_pixels=25_000_000)

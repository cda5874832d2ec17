"""Bodies: strict JSON, images taken out by their place in flat memory, chunks."""

import base64
import json
import random
import tracemalloc
from collections.abc import Iterator
from string import ascii_letters, digits
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from app import bodies
from app.bodies import CHUNK_BYTES, INLINE_BYTES, SKELETON_BYTES, Place
from app.errors import ImageError, InvalidResultError
from app.services import Services

BASE64 = ascii_letters + digits + "+/"
MANY = 100
DEEPEST = b'{"a":' * 64 + b"1" + b"}" * 64


def long_base64(seed: int, length: int, end: str) -> str:
    return "".join(random.Random(seed).choices(BASE64, k=length)) + end


images = st.builds(
    long_base64,
    st.integers(0, 999),
    # Around the length from which a string counts as an image.
    st.one_of(st.integers(1015, 1030), st.integers(1030, 5000)),
    st.sampled_from(["", "=", "==", '"', "\\", "\\\\", "\n", " and more", '"}', "\u00e9", "-_"]),
)
texts = st.one_of(
    st.text(max_size=20),
    st.sampled_from(["", '"', "\\", '\\"', "/", "https://a.test/1.png?x=y", "\ud800", "a" * 1024]),
    st.builds(lambda text: text * 300, st.text(min_size=1, max_size=9)),
    images,
    st.builds("data:image/png;base64,{}".format, images),
).filter(lambda text: Place.parse(text) is None)
payloads = st.recursive(
    st.one_of(texts, st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False)),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(texts, inner, max_size=4)),
    max_leaves=8,
)


def in_pieces(data: bytes, cuts: random.Random) -> Iterator[bytes]:
    position = 0
    while position < len(data):
        size = cuts.choice([1, 2, 3, 10, 1000, 1023, 1024, 1025, 4096])
        yield data[position : position + size]
        position += size


def restored(value: Any, body: bytes) -> Any:
    """`value`, which was read from a split body, with the strings that stood at its places."""
    if isinstance(value, str) and (place := Place.parse(value)):
        return json.loads(b'"' + body[place.start : place.start + place.length] + b'"')
    if isinstance(value, list):
        return [restored(item, body) for item in value]
    if isinstance(value, dict):
        return {restored(name, body): restored(item, body) for name, item in value.items()}
    return value


@settings(max_examples=MANY, deadline=None)
@given(payload=payloads, ascii_only=st.booleans(), php=st.booleans(), seed=st.integers(0, 9999))
# An escaped quote inside of an image's string was taken for its end.
@example(payload=["A" * 1500 + '"', "b"], ascii_only=True, php=False, seed=1)
# The escape at the 1,024th character was remembered for the beginning of the next string.
@example(payload=["A" * 1023 + "/AAA", ""], ascii_only=True, php=True, seed=1)
# With PHP's slashes a data URL was not seen to be an image.
@example(payload=["data:image/png;base64," + "A" * 2000], ascii_only=True, php=True, seed=1)
def test_with_its_places_restored_a_split_body_is_the_same(
    payload: Any, ascii_only: bool, php: bool, seed: int
) -> None:
    text = json.dumps(payload, ensure_ascii=ascii_only)
    body = (text.replace("/", "\\/") if php else text).encode("utf-8", "surrogatepass")

    skeleton = bodies.split(in_pieces(body, random.Random(seed)))

    read = json.loads(skeleton.decode("utf-8", "surrogatepass"))
    assert restored(read, body) == payload


@pytest.mark.parametrize("head", ["", "data:image/png;base64,", "data:image\\/png;base64,"])
@pytest.mark.parametrize("slash", ["/", "\\/", "\\r\\n/"])
def test_every_long_image_is_taken_out(head: str, slash: str) -> None:
    image = long_base64(1, 5000, "==").replace("/", slash)
    body = f'{{"data": [{{"b64_json": "{head}{image}"}}], "task_id": "a"}}'.encode()

    payload = json.loads(bodies.split([body]))

    assert payload["task_id"] == "a"
    assert payload["data"][0]["b64_json"] == f"body:24+{len(head) + len(image)}"


def test_long_text_that_is_no_image_stays() -> None:
    payload = {"prompt": "long words " * 500, "url": "https://a.test/" + "A" * 3000}
    body = json.dumps(payload).encode()
    assert bodies.split([body]) == body


@pytest.mark.parametrize("body", [b"", b'{"a', b'{"a": "b\\', b"{" + b" " * 2000, b'"' * 7])
def test_what_is_cut_off_or_broken_stays_as_it_is(body: bytes) -> None:
    assert bodies.split([body[:1], body[1:]]) == body


def test_a_body_that_is_large_without_its_images_is_refused() -> None:
    def endless() -> Iterator[bytes]:
        yield b'{"a": "'
        while True:
            yield b"long text " * 1000

    with pytest.raises(InvalidResultError, match=f"more than {SKELETON_BYTES} bytes"):
        bodies.split(endless())


def test_memory_stays_flat_for_a_hundred_megabytes() -> None:
    piece = b"QUJD" * 16 * 1024

    def body() -> Iterator[bytes]:
        yield b'{"data": [{"b64_json": "'
        yield from (piece for _ in range(1600))
        yield b'"}]}'

    def decoded() -> int:
        return sum(len(data) for data in bodies.decode_base64(piece for _ in range(1600)))

    tracemalloc.start()
    try:
        skeleton = bodies.split(body())
        size = decoded()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert json.loads(skeleton) == {"data": [{"b64_json": f"body:24+{1600 * 2**16}"}]}
    assert size == 1600 * 2**16 // 4 * 3
    assert peak < 2**20


@given(data=st.binary(max_size=3000), seed=st.integers(0, 999), padded=st.booleans())
def test_base64_is_decoded_from_pieces_of_any_size(data: bytes, seed: int, padded: bool) -> None:
    text = base64.b64encode(data)
    if not padded:
        text = text.rstrip(b"=")
    assert b"".join(bodies.decode_base64(in_pieces(text, random.Random(seed)))) == data


@pytest.mark.parametrize(
    "pieces",
    [
        [b"-_8"],
        [b"+/8="],
        [b"+\\/8="],
        [b"+\\", b"/8="],
        [b"+\\r\\", b"n/8=\r\n"],
        [b"data:image/png;base64,+/8="],
        [b"data:image\\/png;base64,+\\/8="],
        # A chunk's end within the head made "not base64" of a good image.
        [b"da", b"ta:image/p", b"ng;base6", b"4,+/8="],
        [b"data:;base64,", b"", b"+/8="],
    ],
)
def test_base64_has_several_spellings(pieces: list[bytes]) -> None:
    assert b"".join(bodies.decode_base64(pieces)) == b"\xfb\xff"


@pytest.mark.parametrize("text", [b"QUJ$", b"QUJDR", b"\xff\xff\xff\xff", b"Q U J D"])
def test_what_is_no_base64_is_an_image_error(text: bytes) -> None:
    with pytest.raises(ImageError) as caught:
        list(bodies.decode_base64([text]))
    assert caught.value.code == "not_base64"


@pytest.mark.parametrize(
    ("body", "payload"),
    [
        (b"{}", {}),
        (b' {"a": [1, 2.5, null, true]}\n', {"a": [1, 2.5, None, True]}),
        (b'\xef\xbb\xbf{"a": "\xc3\xa9"}', {"a": "\u00e9"}),
        (b'{"a": "\\ud800"}', {"a": "\ud800"}),
        (b'{"a": 1, "a": 2}', {"a": 2}),
        (b'{"a": 1e308}', {"a": 1e308}),
        (DEEPEST, json.loads(DEEPEST)),
    ],
)
def test_a_body_is_a_json_object(body: bytes, payload: object) -> None:
    assert bodies.read_json(body) == payload


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (b"", "not JSON: "),
        (b"not JSON", "not JSON: "),
        (b'{"a": 1', "not JSON: "),
        (b"{} {}", "not JSON: "),
        (b'{"a": NaN}', "not JSON: NaN is no JSON value"),
        (b'{"a": -Infinity}', "not JSON: -Infinity is no JSON value"),
        # Read as infinity, this could not be written to the database.
        (b'{"a": 1e999}', "not JSON: the number 1e999 is too large"),
        (b'{"a": ' + b"9" * 5000 + b"}", "not JSON: "),
        (b'{"a": "\xff"}', "not UTF-8: invalid start byte at byte 7"),
        (b'\xff\xfe{\x00"\x00', "not UTF-8: "),
        (b"1", "expected a JSON object, not a number"),
        (b"true", "expected a JSON object, not a boolean"),
        (b'{"a":' + DEEPEST + b"}", "nested deeper than 64 levels"),
        (b'{"a":' + b"[" * 65 + b"]" * 65 + b"}", "nested deeper than 64 levels"),
        (b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested deeper than 64 levels"),
    ],
)
def test_any_other_body_is_refused_with_the_reason(body: bytes, problem: str) -> None:

    with pytest.raises(InvalidResultError) as caught:
        bodies.read_json(body)
    assert str(caught.value).startswith(problem)


@given(st.integers(0, 10**12 - 1), st.integers(0, 10**12 - 1))
def test_a_place_is_read_as_it_is_written(start: int, length: int) -> None:
    assert Place.parse(str(Place(start, length))) == Place(start, length)


@pytest.mark.parametrize("text", ["body:1", "body:1+2 ", "body:-1+2", "body:1+", "https://a", ""])
def test_any_other_text_is_no_place(text: str) -> None:
    assert Place.parse(text) is None


def test_a_small_body_is_kept_whole_and_a_large_one_in_chunks(parts: Services) -> None:
    small, large = bytes(INLINE_BYTES), bytes(range(256)) * 10_000
    with parts.db.transaction() as session:
        kept, chunked = bodies.keep(session, small), bodies.keep(session, large)

    assert (kept.inline, kept.size) == (small, INLINE_BYTES)
    assert (chunked.inline, chunked.size) == (None, len(large))
    with parts.db.reading() as session:
        pieces = list(bodies.read_chunks(session, chunked.id))
        assert [len(piece) for piece in pieces] == [CHUNK_BYTES, CHUNK_BYTES, 462_848]
        assert b"".join(pieces) == large
        assert list(bodies.read_chunks(session, kept.id)) == []


@pytest.mark.parametrize(
    ("start", "length"),
    [
        (0, 10),
        (CHUNK_BYTES - 3, 3),
        (CHUNK_BYTES - 3, 4),
        (CHUNK_BYTES, 5),
        (CHUNK_BYTES - 1, CHUNK_BYTES + 2),
        (5, 2 * CHUNK_BYTES + 90),
        (2 * CHUNK_BYTES, 10**9),
        (10 * CHUNK_BYTES, 5),
        (7, 0),
    ],
)
def test_a_part_is_read_across_chunks(sqlite_parts: Services, start: int, length: int) -> None:
    data = random.Random(1).randbytes(2 * CHUNK_BYTES + 100)
    with sqlite_parts.db.transaction() as session:
        body = bodies.keep(session, data)
    with sqlite_parts.db.reading() as session:
        pieces = bodies.read_chunks(session, body.id, Place(start, length))
        assert b"".join(pieces) == data[start : start + length]

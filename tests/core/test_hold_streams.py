"""Server-Sent Events as they arrive, in pieces of any size, and the whole answer that is made of them."""

import io
import json
from collections.abc import Iterable, Iterator
from typing import Any

import pytest

from app.errors import OutboundError, ProviderError
from app.holds.streams import read_events, receive
from app.providers.agcloud import AGCloud
from app.providers.base import Credentials

PROVIDER = AGCloud(Credentials("https://agcloud.test", None))
LONG = "QUJD" * 40_000


def event(kind: str, **fields: Any) -> bytes:
    content = {"type": f"image_edit.{kind}", "b64_json": "QUJD", **fields}
    return f"event: {kind}\ndata: {json.dumps(content)}\n\n".encode()


def whole(stream: Iterable[bytes], *, expected: int = 10) -> tuple[Any, list[bytes]]:
    """The JSON that a stream stands for, and the base64 of its partial images."""
    answer, partials = io.BytesIO(), list[bytes]()
    keep = lambda pieces: partials.append(b"".join(pieces))  # noqa: E731 - one line says it
    receive(stream, PROVIDER, keep, answer, expected=expected)
    return json.loads(answer.getvalue()), partials


@pytest.mark.parametrize("size", [1, 7, 1 << 20])
def test_pieces_of_any_size_make_the_same_events(size: int) -> None:
    text = (
        b': hi\r\nid: 1\r\ndata: {"a":\r\ndata:1}\r\n\r\n\ndata: [DONE]\n\ndata: {"never": 1}\n\n'
    )
    pieces = [text[at : at + size] for at in range(0, len(text), size)]

    assert list(read_events(pieces, io.BytesIO())) == [{"a": 1}]


def test_a_stream_becomes_a_whole_answer() -> None:
    usage = {"total_tokens": 9}
    stream = [
        event("partial_image", b64_json=LONG),
        b"data: no json\n\n",
        event("progress"),
        event("completed", b64_json=LONG, revised_prompt='a "cat"'),
        event("completed", usage=usage),
    ]
    answer, partials = whole(stream)

    assert partials == [LONG.encode()]
    first, second = answer["data"]
    assert first == {"b64_json": LONG, "revised_prompt": 'a "cat"'}
    assert (second["b64_json"].removeprefix("data:;base64,"), answer["usage"]) == ("QUJD", usage)


def test_what_was_paid_for_is_taken_however_the_stream_ends() -> None:
    def cut() -> Iterator[bytes]:
        yield event("completed")
        raise OutboundError("cut", code="connection_lost")

    def endless() -> Iterator[bytes]:
        yield event("completed")
        raise AssertionError("nobody waits for more than was asked for")

    unfinished = [event("completed").rstrip(b"\n")]
    for stream, expected in ((cut(), 2), (endless(), 1), (unfinished, 2)):
        assert len(whole(stream, expected=expected)[0]["data"]) == 1


def test_a_stream_without_an_image_says_why() -> None:
    error = {"error": {"code": "forbidden", "message": "no"}}
    assert whole([f"data: {json.dumps(error)}\n\n".encode()])[0] == error
    with pytest.raises(ProviderError) as caught:
        whole([event("partial_image"), event("completed")[:-9]])
    assert (caught.value.code, caught.value.permanent) == ("incomplete_stream", True)

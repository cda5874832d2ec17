"""Forms with files, as a server reads them."""

import io
from typing import Any

from werkzeug.test import EnvironBuilder
from werkzeug.wrappers import Request

from app.providers.base import File
from app.providers.multipart import encode


def file(field: str, name: str, data: bytes) -> File:
    return File(field, name, "image/png", len(data), lambda: io.BytesIO(data))


def sent(fields: dict[str, Any], *files: File) -> Request:
    headers, body = encode(fields, files)
    data = b"".join(body)
    assert headers["Content-Length"] == str(len(data))
    builder = EnvironBuilder(method="POST", data=data, content_type=headers["Content-Type"])
    return Request(builder.get_environ())


def test_fields_and_files_arrive_as_they_were() -> None:
    large = bytes(range(256)) * 1000
    request = sent(
        {"prompt": "Zwölf\r\n--x", "n": 2, "stream": True, "tag": ["a", "b"], "more": {"a": None}},
        file("image", "one.png", large),
        file("image", 'two".png', b""),
        file("mask", "mask.png", b"\r\n--"),
    )
    assert request.form.to_dict(flat=False) == {
        "prompt": ["Zwölf\r\n--x"],
        "n": ["2"],
        "stream": ["true"],
        "tag": ["a", "b"],
        "more": ['{"a": null}'],
    }
    images = request.files.getlist("image")
    assert [(each.filename, each.mimetype) for each in images] == [
        ("one.png", "image/png"),
        ('two".png', "image/png"),
    ]
    assert [each.read() for each in images] == [large, b""]
    assert request.files["mask"].read() == b"\r\n--"
    request.close()


def test_a_form_of_files_alone_is_whole() -> None:
    with sent({}, file("image", "one.png", b"x")) as request:
        assert request.files["image"].read() == b"x"

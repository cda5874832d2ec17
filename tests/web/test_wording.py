"""How the pages write things."""

import json
import shlex
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from app.web.pages import commands, timeline, wording
from app.web.pages.bodies import Form, laid_out


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "\u2013"), (-3.0, "0 ms"), (0.34, "340 ms"), (4.21, "4.2 s"), (59.96, "1 min 0 s"),
        (192.0, "3 min 12 s"), (7500.0, "2 h 5 min"), (187_200.0, "2 d 4 h"),
    ],
)  # fmt: skip
def test_durations(seconds: float | None, text: str) -> None:
    assert wording.duration(seconds) == text


@pytest.mark.parametrize(
    ("ago", "text"),
    [(0.2, "now"), (12, "12 s ago"), (-90, "in 1 min"), (7300, "2 h ago"), (200_000, "2 d ago")],
)
def test_relative_times(ago: float, text: str) -> None:
    assert wording.relative(datetime.now(UTC) - timedelta(seconds=ago + 0.05)) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(None, "\u2013"), (0, "0 bytes"), (1023, "1023 bytes"), (1536, "1.5 KiB"),
     (300 * 1024, "300 KiB"), (5 * 2**30, "5.0 GiB"), (5 * 2**40, "5120 GiB")],
)  # fmt: skip
def test_sizes(count: int | None, text: str) -> None:
    assert wording.size(count) == text


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (None, "\u2013"),
        (0.0, "0 %"),
        (0.001, "< 1 %"),
        (0.5, "50 %"),
        (0.99951, "99.9 %"),
        (1.0, "100 %"),
    ],
)
def test_shares_are_never_rounded_to_all_or_nothing(share: float | None, text: str) -> None:
    assert wording.percent(share) == text


@pytest.mark.parametrize(
    ("url", "host"),
    [("https://user:secret@shop.example:8443/hook?key=1", "shop.example:8443"), ("//[", "no host"),
     (None, "no host"), ("nonsense", "no host")],
)  # fmt: skip
def test_an_address_is_named_by_its_host(url: str | None, host: str) -> None:
    assert wording.host(url) == host


def test_a_name_in_a_sentence_turns_nothing_round() -> None:
    assert wording.unturned("a\u202eb\u2066\u2069 \u200f\u05d0") == "ab \u200f\u05d0"


def test_a_timeline_is_told_in_words() -> None:
    def entry(second: int, event: str, **detail: object) -> dict[str, object]:
        return {"at": f"2026-11-24T10:00:0{second}.000Z", "event": event, "detail": detail}

    told = list(
        timeline.steps(
            [
                entry(0, "created"),
                entry(1, "submitting", attempt=2),
                entry(3, "image_stored", index=0, bytes=2048, callback_id="x"),
                entry(4, "resubmitted", **{"as": "another"}),
                entry(5, "unheard_of", asked=3, came=1, why=None),
            ]
        )
    )
    assert [(step.words, step.after, list(step.details)) for step in told] == [
        ("Asked for", None, []),
        ("Sending to the provider again", 1.0, ["attempt 2"]),
        ("Image stored", 2.0, ["image 1", "2.0 KiB"]),
        ("Submitted again", 1.0, []),
        ("unheard of", 1.0, ["1 of 3 images"]),
    ]
    assert told[3].other == "another"


def test_who_was_told_of_the_end_is_in_the_timeline() -> None:
    def sent(id_: str, type_: str, status: str, *seconds: int) -> dict[str, object]:
        attempts = [{"at": f"2026-11-24T10:00:0{at}.500Z", "duration_ms": 20} for at in seconds]
        return {"id": id_, "type": type_, "status": status, "attempts": attempts}

    all_ = [
        sent("a", "task.received", "delivered", 1),
        sent("b", "task.succeeded", "delivered", 2),
        sent("c", "task.succeeded", "failed", 2, 5),
        sent("d", "task.succeeded", "pending", 2),
    ]
    assert not list(timeline.deliveries(all_, "received", {"a": "shop"}))
    entries = list(timeline.deliveries(all_, "succeeded", {"b": "shop", "c": "<mail>"}))
    assert [entry["at"] for entry in entries] == [
        "2026-11-24T10:00:02.520Z", "2026-11-24T10:00:05.520Z"
    ]  # fmt: skip
    assert [(step.words, step.after, list(step.details)) for step in timeline.steps(entries)] == [
        ("Delivered", None, ["to shop"]),
        ("Not delivered", 3.0, ["to <mail>", "2 attempts"]),
    ]


def test_a_request_is_a_command_once_more() -> None:
    public, prompt = "https://p.test", "it's <b>\n@x"
    task: dict[str, Any] = {
        "provider": "agcloud",
        "request": {"prompt": prompt, "image": "https://a.test/1.png", "n": 2},
        "inputs": [
            {"role": "image", "index": 0, "url": "https://a.test/1.png", "content_type": None}
        ],
    }
    words = shlex.split(commands.curl(public, task))
    assert words[:2] == ["curl", "https://p.test/v1/images/edits"]
    assert json.loads(words[-1]) == {"provider": "agcloud", **task["request"]}

    # Files are fetched before, and sent with the fields, of which none is taken for a file's name.
    task["request"] = {"prompt": prompt, "metadata": {"a": "b"}}
    task["inputs"] = [
        {"role": role, "index": 0, "url": f"{public}/images/{role}?a&b", "content_type": type_}
        for role, type_ in (("image", "image/jpeg"), ("mask", "image/png"))
    ]
    *fetched, command = commands.curl(public, task).split("\n", 2)
    assert [shlex.split(line) for line in fetched] == [
        ["curl", "-fsSL", f"{public}/images/image?a&b", "-o", "image-1.jpg"],
        ["curl", "-fsSL", f"{public}/images/mask?a&b", "-o", "mask-1.png"],
    ]
    assert shlex.split(command.replace("\\\n", ""))[4:] == [
        "-F", "image=@image-1.jpg", "-F", "mask=@mask-1.png",
        "--form-string", "provider=agcloud", "--form-string", f"prompt={prompt}",
        "--form-string", 'metadata={"a": "b"}',
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("data", "form", "whole", "text"),
    [
        (b'{"a":"\xc3\xa4"}', Form.PRETTY, True, '{\n  "a": "\u00e4"\n}'),
        (b'{"a":1}', Form.PRETTY, False, '{"a":1}'),
        (b"[" * 100_000, Form.PRETTY, True, "[" * 100_000),
        (b"\xff\x00<", Form.TEXT, True, "\ufffd\x00<"),
        (b"0123456789abcdef\n", Form.HEX, True,
         f"00000000  {b'0123456789abcdef'.hex(' ')}  0123456789abcdef\n00000010  0a{' ' * 45}  ."),
    ],
)  # fmt: skip
def test_a_body_is_laid_out(data: bytes, form: Form, whole: bool, text: str) -> None:
    assert laid_out(data, form, whole=whole) == text

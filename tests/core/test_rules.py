"""Rules: what a field may be, and how a refusal reads."""

from typing import Any

import pytest

from app.errors import InvalidFieldError
from app.providers.rules import (
    AnySize,
    Choice,
    Flag,
    FreeSize,
    ImageUrls,
    Integer,
    Kind,
    Labels,
    Needs,
    Rules,
    Text,
)

FREE = FreeSize(16, 3840, 655_360, 8_294_400, 3)
URL = "https://example.com/a.png"


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        (Text(3), ["a", "abc", " a "], ["", "  ", "abcd", 1, None, ["a"]]),
        (Integer(1, 10), [1, 10], [0, 11, True, 1.0, "1", None, 10**400]),
        (Flag(), [True, False], [0, 1, "true", None]),
        (Choice(("a", "b")), ["a", "b"], ["c", "A", "", None, ["a"], {}]),
        (AnySize(), ["auto", "1x1", "99999x1"], ["0x1", "1x", "1X1", "100000x1", "\u0661x1", 1]),
        (
            FREE,
            ["auto", "1024x1024", "3840x2160", "640x1024", "3072x1024", "2160x3840"],
            [
                "1000x1024",  # not a multiple of 16
                "3856x2160",  # too long
                "512x512",  # too few pixels
                "3840x2176",  # too many pixels
                "3088x1024",  # more than 3:1
                "01024x1024",
                "1024",
                None,
            ],
        ),
        (
            ImageUrls(2),
            [URL, [URL], [URL, "http://[::1]/b"]],
            [[], [URL] * 3, "", "ftp://example.com/a", "https://", "http://[", [None], {}, 1],
        ),
        (
            Labels(2, 3),
            [{}, {"a": ""}, {"a": "abc", "b": "abc"}],
            [{"a": "abcd"}, {"a": 1}, {"a": "", "b": "", "c": ""}, [], "a", None],
        ),
    ],
)
def test_a_kind_of_field_allows_this_and_not_that(
    kind: Kind, good: list[Any], bad: list[Any]
) -> None:
    assert [value for value in good if not kind.allows(value)] == []
    assert [value for value in bad if kind.allows(value)] == []


RULES = Rules(
    required=("prompt",),
    fields={"prompt": Text(10), "n": Integer(1, 10)},
    models={"small": {"n": Integer(1, 1)}},
    needs=(Needs("n", 2, "prompt", ("two", "both"), default="one"),),
)


def refusal(**fields: Any) -> InvalidFieldError:
    with pytest.raises(InvalidFieldError) as caught:
        RULES.check(fields)
    return caught.value


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"prompt": "a", "n": 11}, "n: expected a whole number from 1 to 10, not 11"),
        ({"n": 1}, "prompt is missing: expected text of 1 to 10 characters"),
        # A model has its own rules beside the general ones.
        (
            {"prompt": "a", "n": 2, "model": "small"},
            "n: expected a whole number from 1 to 1, not 2",
        ),
        ({"prompt": "", "model": "small"}, "prompt: expected text of 1 to 10 characters, not ''"),
    ],
)
def test_a_refusal_names_field_value_and_rule(fields: dict[str, Any], message: str) -> None:
    error = refusal(**fields)
    assert (error.code, str(error)) == ("bad_request", message)
    assert message.startswith(str(error.param))


def test_a_long_value_is_cut_short_in_the_refusal() -> None:
    message = str(refusal(prompt="x" * 5000))
    assert message.endswith("... (5000 characters)")
    assert len(message) < 200


@pytest.mark.parametrize("model", ["another", None, 5, ["small"], {"a": 1}])
def test_a_model_without_rules_has_only_the_general_ones(model: Any) -> None:
    RULES.check({"prompt": "a", "n": 9, "model": model, "without a rule": object()})


def test_a_value_may_need_another_field() -> None:
    assert str(refusal(prompt="a", n=2)) == "n=2 needs prompt to be two or both, not 'a'"
    RULES.check({"prompt": "both", "n": 2})
    RULES.check({"prompt": "a", "n": 3})


def test_a_field_may_need_another_one_whatever_its_value() -> None:
    need = Needs("compression", None, "format", ("jpeg", "webp"), default="png")

    assert need.broken_by({"compression": 0})
    assert need.broken_by({"compression": 0, "format": "png"})
    assert not need.broken_by({"compression": 0, "format": "webp"})
    assert not need.broken_by({"format": "png"})
    assert str(need) == "compression needs format to be jpeg or webp"

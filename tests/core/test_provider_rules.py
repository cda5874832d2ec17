"""Each rule of each provider, just inside and just outside."""

from typing import Any

import pytest

from app.errors import InvalidFieldError
from app.providers import RULES
from app.providers.rules import Needs
from tests.factories import submission

Values = list[Any]
# By field, what is just inside and what is just outside.
Bounds = dict[str, tuple[Values, Values]]

URL = "https://a.test/1"
IMAGE: tuple[Values, Values] = (
    [URL, [URL], [URL] * 16],
    [[], [URL] * 17, "", "ftp://a.test/1", "https://", ["x"], 1],
)
PROMPT: tuple[Values, Values] = (["x", "x" * 32_000], ["", " \n", "x" * 32_001, 1, ["x"]])
MODEL: tuple[Values, Values] = (["x", "x" * 200], ["", "x" * 201, 1])
COUNT: tuple[Values, Values] = ([1, 10], [0, 11, 2.5, "2", True])
FLAG: tuple[Values, Values] = ([True, False], ["true", 1, 0])
PERCENT: tuple[Values, Values] = ([0, 100], [-1, 101, "50"])
PARTIALS: tuple[Values, Values] = ([0, 3], [-1, 4])
USER: tuple[Values, Values] = (["x" * 1000], ["x" * 1001, 1])
FREE_TEXT: tuple[Values, Values] = (["4K", "x" * 200], ["", "x" * 201, 1])
NO_FILE: tuple[Values, Values] = ([], [URL, "x", {}])
FIDELITY: tuple[Values, Values] = (["high", "low"], ["medium", "High"])
FORM: tuple[Values, Values] = (["url", "b64_json"], ["base64"])
FOUR_SIZES: tuple[Values, Values] = (
    ["auto", "1024x1024", "1536x1024", "1024x1536"],
    ["1024x1008", "1792x1024"],
)
FREE_SIZES: tuple[Values, Values] = (
    ["auto", "1024x640", "3840x2160", "2160x3840", "3072x1024"],
    # Not multiples of 16, too long, too few and too many pixels, more than 3:1.
    ["1032x1024", "3856x2160", "1024x624", "3840x2176", "3088x1024", "1024", 1],
)

GENERAL: dict[str, Bounds] = {
    "acedata": {
        "image": IMAGE,
        "prompt": PROMPT,
        "model": MODEL,
        "n": COUNT,
        "quality": (["auto", "high", "medium", "low"], ["standard", "best"]),
        "background": (["opaque", "auto", "transparent"], ["pink"]),
        "output_format": (["png", "jpeg", "webp"], ["auto", "gif"]),
        "output_compression": PERCENT,
        "moderation": FREE_TEXT,
        "user": USER,
        "size": FREE_TEXT,
        "mask": NO_FILE,
        "input_fidelity": FIDELITY,
        "partial_images": PARTIALS,
        "response_format": FORM,
        "async": FLAG,
        "stream": FLAG,
    },
    "agcloud": {
        "image": IMAGE,
        "prompt": PROMPT,
        "model": MODEL,
        "n": COUNT,
        "quality": (["auto", "low", "medium", "high"], ["standard"]),
        "background": (["opaque", "auto"], ["pink"]),
        "output_format": (["auto", "png", "jpeg", "webp"], ["gif"]),
        "output_compression": PERCENT,
        "moderation": (["auto", "low"], ["high"]),
        "user": USER,
        "size": FREE_TEXT,
        "mask": NO_FILE,
        "input_fidelity": FIDELITY,
        "partial_images": PARTIALS,
        "response_format": FORM,
        "async": FLAG,
        "stream": FLAG,
    },
}
FREE_MODELS = (
    "gpt-image-2", "gpt-image-2:official", "gpt-image-2:reverse", "gpt-image-2.5-flare",
    "gpt-image-2.5-flare:official", "gpt-image-2.5-sunburst", "gpt-image-2.5-sunburst:official",
)  # fmt: skip
MODELS: dict[str, dict[str, Bounds]] = {
    "acedata": {
        "dall-e-2": {
            "image": ([URL, [URL]], [[URL] * 2]),
            "prompt": (["x" * 1000], ["x" * 1001]),
            "quality": (["standard"], ["auto", "high"]),
            "size": (["256x256", "512x512", "1024x1024"], ["auto", "1792x1024"]),
        },
        "dall-e-3": {"n": ([1], [2]), "size": (["auto", "1792x1024"], ["big", "0x1", "1x"])},
        "gpt-image-1": {"size": FOUR_SIZES},
        "gpt-image-1.5": {"size": FOUR_SIZES},
        **{model: {"size": FREE_SIZES} for model in FREE_MODELS},
    },
    "agcloud": {
        "gpt-image-1": {"size": FOUR_SIZES},
        "gpt-image-2": {"size": FREE_SIZES},
        "git-image-2": {"size": FREE_SIZES},
        "gpt-image-2-plus": {"quality": ([], ["auto", "high"])},
    },
}
# What makes a field possible that needs another one.
BESIDE: dict[str, dict[str, Any]] = {
    "output_compression": {"output_format": "webp"},
    "partial_images": {"stream": True},
}

CASES = [
    pytest.param(provider, model, name, *bounds, id=f"{provider}-{model}-{name}")
    for provider, general in GENERAL.items()
    for model, fields in {"another": general, **MODELS[provider]}.items()
    for name, bounds in fields.items()
]


def request(model: str, name: str, value: object) -> dict[str, Any]:
    """A request that is right but for `value`, maybe."""
    return {**submission(model=model), **BESIDE.get(name, {}), name: value}


@pytest.mark.parametrize(("provider", "model", "name", "inside", "outside"), CASES)
def test_a_value_just_inside_is_taken_and_one_just_outside_is_not(
    provider: str, model: str, name: str, inside: Values, outside: Values
) -> None:
    rules = RULES[provider]
    for value in inside:
        rules.check(request(model, name, value))
    for value in outside:
        with pytest.raises(InvalidFieldError) as caught:
            rules.check(request(model, name, value))
        assert caught.value.param == name
        # Field, rule and value.
        assert str(caught.value).startswith(f"{name}: expected ")
        assert repr(value)[:20] in str(caught.value)


@pytest.mark.parametrize("provider", RULES)
def test_no_rule_is_without_its_bounds_here(provider: str) -> None:
    rules = RULES[provider]
    plain = {model.replace("*", "gpt-image-2"): kinds for model, kinds in rules.models.items()}
    assert set(GENERAL[provider]) == set(rules.fields)
    assert {model: set(kinds) for model, kinds in MODELS[provider].items()} == {
        model: set(kinds) for model, kinds in plain.items()
    }


NEEDS = [
    pytest.param(provider, need, id=f"{provider}-{need}")
    for provider, rules in RULES.items()
    for need in rules.needs
]


@pytest.mark.parametrize(("provider", "need"), NEEDS)
def test_what_goes_only_with_something_else_is_refused_without(provider: str, need: Needs) -> None:
    rules = RULES[provider]
    subject = need.value if need.value is not None else 1
    # What its other needs are.
    fields = {"model": "gpt-image-1", "output_format": "webp", **submission(model=None)}
    fields |= {need.field: subject}
    for other in need.others:
        rules.check({**fields, need.other: other})
    without = {name: value for name, value in fields.items() if name != need.other}
    if need.default in need.others:
        rules.check(without)
    elif need.other not in rules.required:
        with pytest.raises(InvalidFieldError, match=str(need)):
            rules.check(without)
    wrong = {"model": "another", "output_format": "jpeg", "n": 2, "stream": False}[need.other]
    wrong = "png" if wrong in need.others else wrong
    with pytest.raises(InvalidFieldError) as caught:
        rules.check({**fields, need.other: wrong})
    assert str(caught.value) == f"{need}, not {wrong!r}"


@pytest.mark.parametrize("provider", RULES)
def test_unknown_models_and_fields_pass(provider: str) -> None:
    rules = RULES[provider]
    rules.check(submission(model="a-model-of-next-month", size="enormous", sparkle=11))
    rules.check(submission(model="nano-banana-pro", size="4K", n=10, seed={"deep": [1]}))

"""Edits with everything that can go wrong in them, and how each must end."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

# How many images a task with so many asked for gets; or the code of the error that it ends with.
Ending = int | str

PROVIDERS = ("acedata", "agcloud")

# The provider has nothing, but that cannot be told from its answer.
LOST = "unknown_outcome"


@dataclass(frozen=True)
class Mischief:
    """Words in a prompt; `error` is the code of the error that they lead to.

    `fewer` is how many images come less than were asked for, and `most` how many may be asked for;
    `stream` says that the result is to come as events.
    """

    words: str
    error: str | None = None
    fewer: int = 0
    most: int = 3
    stream: bool = False


def _harmless(*words: str, **fields: Any) -> list[Mischief]:
    return [Mischief(each, **fields) for each in words]


# How a submission is answered.
_ANSWERS = _harmless("[429 1]", "[500 1]", "[429 2] [500 2]")
_LOST = _harmless("[bare 500]", "[hang up before]", error=LOST)
_ACCEPTED = _harmless("[504]", "[hang up after]")
_SLOW = _harmless("[slow answer 0.5]", "[slow answer 2]")
_IMAGES = [
    *_harmless("[wrong type]", "[slow image 2]", "[redirect 2]", "[image 503 1]"),
    *_harmless("[big image 3]", most=1),
]
_NO_IMAGES = [
    Mischief("[bomb]", "too_many_pixels"),
    Mischief("[truncated png]", "truncated_image"),
    Mischief("[not an image]", "not_an_image"),
    Mischief("[image 404]", "image_unavailable"),
    Mischief("[private redirect]", "blocked_address"),
]
_RESULTS = [
    Mischief("[forbidden]", "forbidden"),
    Mischief("[partial]", fewer=1),
    *_harmless("[huge 2]"),
]

SUBMISSIONS: Mapping[str, Sequence[Mischief]] = {
    "acedata": [*_ANSWERS, *_LOST, *_ACCEPTED, *_SLOW],
    # The answer is the result: without it there is none, and nobody to ask.
    "agcloud": [*_ANSWERS, *_LOST, *_harmless("[504]", "[hang up after]", error=LOST), *_SLOW],
}
RESULTS: Mapping[str, Sequence[Mischief]] = {
    "acedata": [
        *_RESULTS,
        *_harmless("[base64]"),
        *_harmless("[image_url]", most=1),
        *_harmless("[late 2]", "[early]", "[never]", "[duplicate 3]", "[concurrent 5]"),
        *_harmless("[success then failure]", "[failure then success]", "[two successes]"),
        *_harmless("[forged]", "[wrong id]", "[truncated json]", "[empty]", "[chunked]", "[gzip]"),
        *_IMAGES,
        *_NO_IMAGES,
    ],
    "agcloud": [
        *_RESULTS,
        *_harmless("[links]", "[links] [redirect 2]", "[links] [image 503 1]"),
        *_harmless("[big image 3]", most=1),
        Mischief("[bomb]", "too_many_pixels"),
        Mischief("[truncated png]", "truncated_image"),
        Mischief("[links] [image 404]", "image_unavailable"),
        Mischief("[cut stream]", "incomplete_stream", stream=True),
        Mischief("[stream error]", "server_error", stream=True),
        Mischief("[broken stream]", LOST, stream=True),
        *_harmless("[bad partial]", "[no done]", stream=True),
    ],
}


@dataclass(frozen=True)
class Edit:
    """One edit; `files` is how many images are uploaded with it, 0 when there is a link instead."""

    provider: str
    prompt: str
    n: int
    files: int
    mask: bool
    ending: Ending
    fields: Mapping[str, Any] = field(default_factory=dict)


def edits(lot: random.Random, count: int) -> list[Edit]:
    """So many edits, for each provider in turn."""
    return [_edit(lot, PROVIDERS[number % len(PROVIDERS)]) for number in range(count)]


def _edit(lot: random.Random, provider: str) -> Edit:
    chosen = [
        lot.choice(mischiefs)
        for mischiefs, share in ((SUBMISSIONS[provider], 0.3), (RESULTS[provider], 0.7))
        if lot.random() < share
    ]
    fields: Mapping[str, Any] = {}
    n = lot.choices([1, 2, 3], [6, 2, 1])[0]
    n = min([n, *(each.most for each in chosen)])
    if any(each.fewer for each in chosen):
        n = 2
    # What comes as events has no links.
    may_stream = provider == "agcloud" and not any("[links]" in each.words for each in chosen)
    if any(each.stream for each in chosen) or (may_stream and lot.random() < 0.3):
        fields = {"stream": True, "partial_images": 2}
    errors = [each.error for each in chosen if each.error]
    files = lot.choices([0, 1, 3], [6, 3, 1])[0]
    return Edit(
        provider=provider,
        prompt=" ".join(["mirror", *(each.words for each in chosen)]),
        n=n,
        files=files,
        mask=files > 0 and lot.random() < 0.5,
        ending=errors[0] if errors else n - sum(each.fewer for each in chosen),
        fields=fields,
    )

"""The command `sandbox`; its help names every misbehaviour, its word and its option."""

from typing import Any

import click

from app.sandbox.misbehaviours import CATALOG, Stage, Word, limited
from app.sandbox.options import Options
from app.sandbox.server import serve

_HELP = """A pretend provider on 127.0.0.1, for developing against this service free of charge.

It speaks the protocols of Ace Data Cloud (which calls back and answers lookups) and of AGCloud
(which answers with the result, or streams it with partial images), and really edits the image.  Set
ACEDATA_BASE_URL and AGCLOUD_BASE_URL to its address, and ALLOW_PRIVATE_HOSTS to its host and port.
Any bearer token will do.

The prompt says what is edited: grayscale, sepia, invert, blur, sharpen, pixelate, mirror, flip,
rotate, posterize, edges, brighter, darker, red, green, blue; else there is a tint, and the prompt as
a caption.  Two photographs to start from: /photos/chelsea.png and /photos/coffee.png.

GET /sandbox/state tells what was accepted, called back, made and looked up; DELETE resets it.

It misbehaves on request: in one task through words in brackets in its prompt, or in every task
through options.  Their numbers may be left out.  With K, the first K submissions of one trace_id
(AGCloud: X-Request-Id; or else of one prompt) go wrong and the next is fine; without K, all go wrong.
"""


class _Misbehaving(click.Option):
    """The option of one misbehaviour; its value is the number, None when it is not given."""

    def __init__(self, word: Word) -> None:
        self.word = word
        self.behaviour = CATALOG[word]
        kind: dict[str, Any] = {"is_flag": True, "flag_value": 1.0, "type": float}
        if self.behaviour.number:
            kind = {
                "is_flag": False,
                "flag_value": self.behaviour.default,
                "type": click.FloatRange(min=0),
            }
        super().__init__([word.option, word.name.lower()], default=None, **kind)

    def record(self) -> tuple[str, str]:
        """Its line in the help: prompt word, option, what it does."""
        number = f" {self.behaviour.number}" if self.behaviour.number else ""
        terms = f"[{self.word}{number}], {self.word.option}{number}"
        return terms, self.behaviour.text.format(f"{self.behaviour.default:g}")


class _Command(click.Command):
    """A command whose help gives the misbehaviours sections of their own."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        params = self.get_params(ctx)
        plain = [param for param in params if not isinstance(param, _Misbehaving)]
        with formatter.section("Options"):
            formatter.write_dl(
                [record for param in plain if (record := param.get_help_record(ctx))]
            )
        chosen = [param for param in params if isinstance(param, _Misbehaving)]
        for stage in Stage:
            with formatter.section(stage):
                formatter.write_dl(
                    [param.record() for param in chosen if param.behaviour.stage == stage]
                )


def _seconds(name: str, default: float, text: str) -> click.Option:
    kind = click.FloatRange(min=0)
    return click.Option(
        [name], type=kind, metavar="SECONDS", default=default, show_default=True, help=text
    )


def options_of(**given: Any) -> Options:
    """The options that the command line's parameters stand for."""
    numbers = {word: given.pop(word.name.lower()) for word in Word}
    wishes = {word: limited(word, number) for word, number in numbers.items() if number is not None}
    return Options(**given, misbehaviours=wishes)


def _run(**given: Any) -> None:
    options = options_of(**given)
    try:
        serve(options)
    except OSError as error:
        raise click.ClickException(f"port {options.port}: {error.strerror}") from None


command = _Command(
    "sandbox",
    help=_HELP,
    short_help="Run a pretend provider for development.",
    callback=_run,
    context_settings={"max_content_width": 100},
    params=[
        click.Option(
            ["--port"],
            type=click.IntRange(0, 65535),
            default=Options.port,
            show_default=True,
            help="Where to listen; 0 for any free port.",
        ),
        _seconds("--delay", Options.delay, "How many seconds an edit takes."),
        click.Option(["--api-key"], help="The only bearer token to accept."),
        _seconds("--image-ttl", Options.image_ttl, "How many seconds a link to an image works."),
        _seconds(
            "--callback-timeout",
            Options.callback_timeout,
            "How many seconds an answer to a callback may take.",
        ),
        click.Option(
            ["--callback-retries"],
            type=click.IntRange(min=0),
            default=Options.callback_retries,
            show_default=True,
            help="How often a callback is sent again that was not answered with 2xx.",
        ),
        click.Option(
            ["--private-url"],
            default=Options.private_url,
            show_default=True,
            help="Where [private redirect] leads.",
        ),
        click.Option(
            ["--workers"],
            type=click.IntRange(min=1),
            default=Options.workers,
            show_default=True,
            help="How many edits are worked on at a time.",
        ),
        *(_Misbehaving(word) for word in Word),
    ],
)

"""How a sandbox is set up."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from app.sandbox.misbehaviours import Word


@dataclass(frozen=True)
class Options:
    """The sandbox's settings; durations in seconds."""

    port: int = 9000
    """The port on 127.0.0.1 to listen on; 0 for any that is free."""
    delay: float = 1.0
    """How long every piece of work takes."""
    api_key: str | None = None
    """The only bearer token that is accepted; None for any."""
    image_ttl: float = 3600.0
    """How long the link to an image works."""
    callback_timeout: float = 5.0
    """How long a callback may take to be answered."""
    callback_retries: int = 0
    """How often a callback that was not answered with 2xx is sent again."""
    private_url: str = "http://169.254.169.254/latest/meta-data/"
    """Where the `private redirect` leads."""
    workers: int = 16
    """How many tasks are worked on at a time."""
    misbehaviours: Mapping[Word, float] = field(default_factory=dict)
    """What goes wrong in every task, with its number, beside what the prompts ask for."""

"""What the protocols of the providers are built on, as one value."""

from dataclasses import dataclass

from app.sandbox.callbacks import Courier
from app.sandbox.gallery import Gallery
from app.sandbox.ledger import Ledger
from app.sandbox.options import Options
from app.sandbox.scheduling import Scheduler
from app.sandbox.studio import Studio


@dataclass(frozen=True)
class Parts:
    """The parts of one running sandbox; `base_url` is where it is reached."""

    options: Options
    base_url: str
    ledger: Ledger
    gallery: Gallery
    studio: Studio
    scheduler: Scheduler
    courier: Courier

"""The parts of the service, built once from the configuration."""

from collections.abc import Mapping
from dataclasses import dataclass
from uuid import UUID

from app import providers, storage
from app.config import Config
from app.db import Database
from app.outbound import Outbound
from app.providers.base import Provider
from app.signing import Picture, Signing
from app.storage import Storage


@dataclass(frozen=True)
class Services:
    """One of each; shared by all threads of a process."""

    config: Config
    db: Database
    storage: Storage
    outbound: Outbound
    signing: Signing
    providers: Mapping[str, Provider]

    @property
    def confirmed(self) -> frozenset[str]:
        """The providers whose callbacks count only when their own lookup agrees."""
        if self.config.confirm_callbacks == "off":
            return frozenset()
        return frozenset(name for name, each in self.providers.items() if each.lookup)

    def picture_url(self, picture: Picture, id_: UUID, extension: str = "") -> str:
        """The permanent address of an image, with its file name's extension if it is known."""
        suffix = f".{extension}" if extension else ""
        return f"{self.config.public_url}/images/{self.signing.picture_token(picture, id_)}{suffix}"

    def close(self) -> None:
        """Give connections back."""
        self.db.close()


def build(config: Config) -> Services:
    """The parts as `config` wants them; nothing is connected yet."""
    return Services(
        config=config,
        db=Database(config.database_url, pool_size=2 * (config.worker_concurrency + 4)),
        storage=storage.build(config),
        outbound=Outbound(config.allow_private_hosts),
        signing=Signing(
            [config.secret_key, *config.secret_key_fallbacks],
            callback_max_age=config.callback_max_age,
        ),
        providers=providers.build(config),
    )

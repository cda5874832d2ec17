"""The providers by name; each module holds the pure functions of one protocol."""

from collections.abc import Mapping

from app.config import Config
from app.providers.acedata import AceData
from app.providers.base import Credentials, Provider


def build(config: Config) -> Mapping[str, Provider]:
    """Every provider that this version speaks, with our key there."""
    acedata = AceData(Credentials(config.acedata_base_url, config.acedata_api_key))
    return {acedata.name: acedata}

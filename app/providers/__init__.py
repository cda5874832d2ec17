"""The providers by name; each module holds the pure functions of one protocol."""

from collections.abc import Mapping

from app.config import Config
from app.providers.acedata import AceData
from app.providers.agcloud import AGCloud
from app.providers.base import Credentials, Provider
from app.providers.rules import Rules

# What each of them allows.
RULES: Mapping[str, Rules] = {AceData.name: AceData.rules, AGCloud.name: AGCloud.rules}


def build(config: Config) -> Mapping[str, Provider]:
    """Every provider that this version speaks, with our key there."""
    return {
        AceData.name: AceData(Credentials(config.acedata_base_url, config.acedata_api_key)),
        AGCloud.name: AGCloud(Credentials(config.agcloud_base_url, config.agcloud_api_key)),
    }

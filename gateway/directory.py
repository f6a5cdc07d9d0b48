"""The one catalogue in use: built from the configuration and from what the providers list, swapped whole when a list changes.

What it finds in servers whose memory is ours to decide about (Ollama, LM Studio) is told to residency in the same turn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from config.schema import Config, ModelConfig
from gateway.residency.lease import Managed
from gateway.residency.manager import ResidencyManager
from gateway.routing.catalog import Catalog, Listing
from providers.contract import Provider

from . import assembly


class Directory:
    """Holds the present snapshot.

    Args:
        models: the configured ones.
        created: seconds since the epoch, for models that say nothing of their own.
        listings: what is known before anybody was asked.
    Raises: ConfigError: a name is given twice.
    """

    def __init__(
        self,
        config: Config,
        models: Mapping[str, ModelConfig],
        providers: Mapping[str, Provider],
        created: int,
        listings: Sequence[Listing],
    ) -> None:
        self._config = config
        self._models = models
        self._providers = providers
        self._created = created
        self.catalog: Catalog = assembly.catalog_of(config, models, created, listings)

    def managed(self, listings: Sequence[Listing]) -> Mapping[str, Managed]:
        """Everything that residency decides about."""
        return {
            **assembly.managed_of(self._config, self._models, self._providers),
            **assembly.managed_in_servers(self._config, self._models, self._providers, listings),
        }

    def update(self, listings: Sequence[Listing], residency: ResidencyManager) -> None:
        """The providers' lists have changed."""
        residency.manage(self.managed(listings))
        self.catalog = assembly.catalog_of(self._config, self._models, self._created, listings)

"""On which device of ours a server's models count. Pure.

Three cases: 1 the server runs on this machine and shares its budget; 2 it has memory of its own whose size the operator has
told: one device, called like the provider; 3 it has memory of its own that nobody told: not counted, the server sees to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlsplit

import msgspec

from config.presets import is_loopback
from config.schema import ProviderConfig

# Beside the weights a runner holds the cache of its context and working memory. Ollama's own log shows 10–25 % for contexts of
# 4,096; the server's word replaces this guess as soon as the model has been loaded once.
_BESIDE_WEIGHTS = 1.2


class Placement(msgspec.Struct, frozen=True):
    """Where one server's models are counted."""

    own: str | None  # cases 2, 3: the device's name, "" for case 3; None: case 1
    gpu: str | None  # case 1: the device of what is not in RAM

    def footprint(self, ram_bytes: int, gpu_bytes: int) -> Mapping[str, int]:
        """What a model holds, by the server's word."""
        if self.own is not None:
            return {self.own: ram_bytes + gpu_bytes} if self.own else {}
        sizes = {"ram": ram_bytes, self.gpu or "gpu0": gpu_bytes}
        return {device: size for device, size in sizes.items() if size > 0}

    def expected(self, weights_bytes: int) -> Mapping[str, int]:
        """What a model will hold, from the size of its weights: all of it where the server puts models first."""
        size = int(weights_bytes * _BESIDE_WEIGHTS)
        on_gpu = self.own is None and self.gpu is not None
        return self.footprint(0 if on_gpu else size, size if on_gpu else 0)


def placement_of(name: str, config: ProviderConfig, gpu: str | None) -> Placement:
    """Where the models of the provider `name` count.

    Args:
        gpu: the first GPU of this machine, None without one.
    """
    if config.memory is not None:
        return Placement(name, None)
    if not is_loopback(urlsplit(config.base_url).hostname or ""):
        return Placement("", None)
    if config.device:
        return Placement(None, config.device if config.device != "ram" else None)
    return Placement(None, gpu)

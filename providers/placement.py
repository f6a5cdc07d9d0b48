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
# … of a GPU is what a server fills with one model; the rest is its context, the driver's and the headroom of an auto budget.
_GPU_SHARE = 0.85


class Placement(msgspec.Struct, frozen=True):
    """Where one server's models are counted."""

    own: str | None  # cases 2, 3: the device's name, "" for case 3; None: case 1
    gpu: str | None  # case 1: the device of what is not in RAM
    gpu_bytes: int = 0  # all that device has; 0: unknown

    def footprint(self, ram_bytes: int, gpu_bytes: int) -> Mapping[str, int]:
        """What a model holds, by the server's word."""
        if self.own is not None:
            return {self.own: ram_bytes + gpu_bytes} if self.own else {}
        sizes = {"ram": ram_bytes, self.gpu or "gpu0": gpu_bytes}
        return {device: size for device, size in sizes.items() if size > 0}

    def placed(self, size_bytes: int) -> Mapping[str, int]:
        """Where so many bytes will be: on the GPU as much as fits there, the rest in RAM.

        Ollama and LM Studio both split a model that is larger than the GPU, layer by layer.
        """
        on_gpu = size_bytes if self.own is None and self.gpu is not None else 0
        if self.gpu_bytes:
            on_gpu = min(on_gpu, int(self.gpu_bytes * _GPU_SHARE))
        return self.footprint(size_bytes - on_gpu, on_gpu)

    def expected(self, weights_bytes: int) -> Mapping[str, int]:
        """What a model will hold, from the size of its weights."""
        return self.placed(int(weights_bytes * _BESIDE_WEIGHTS))


def placement_of(name: str, config: ProviderConfig, gpus: Mapping[str, int]) -> Placement:
    """Where the models of the provider `name` count.

    Args:
        gpus: this machine's GPUs that can be seen, the one that servers use first first, with all the bytes each has.
    """
    if config.memory is not None:
        return Placement(name, None)
    if not is_loopback(urlsplit(config.base_url).hostname or ""):
        return Placement("", None)
    gpu = next(iter(gpus), None) if config.device is None else config.device
    if gpu is None or gpu == "ram":
        return Placement(None, None)
    return Placement(None, gpu, gpus.get(gpu, 0))

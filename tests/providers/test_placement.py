"""On which device of ours a server's models count: shared memory, memory of its own, memory nobody told us of."""

from __future__ import annotations

import pytest

from config.schema import ProviderConfig
from providers.placement import Placement, placement_of

GIB = 1 << 30
LOCAL = "http://127.0.0.1:11434"
GPUS = {"gpu0": 24 * GIB, "gpu1": 8 * GIB}


def placed(base_url: str = LOCAL, gpus: dict[str, int] | None = None, **keys: object) -> Placement:
    config = ProviderConfig(kind="ollama", base_url=base_url, **keys)  # type: ignore[arg-type]
    return placement_of("box", config, {} if gpus is None else gpus)


def test_server_on_this_machine_shares_its_devices() -> None:
    """RAM alone, or RAM and the first GPU; devices of which it holds nothing are not named."""
    assert placed().footprint(3, 0) == {"ram": 3}
    assert placed(gpus=GPUS).footprint(3, 5) == {"ram": 3, "gpu0": 5}
    assert placed(gpus=GPUS).footprint(0, 5) == {"gpu0": 5}
    assert placed(gpus=GPUS, device="gpu1").footprint(0, 5) == {"gpu1": 5}


@pytest.mark.parametrize("url", ["http://192.168.0.20:11434", "http://box:11434", "https://ollama.example.com"])
def test_server_elsewhere_is_not_counted(url: str) -> None:
    """Its memory is not ours; what is loaded there is still known."""
    assert placed(url, GPUS).footprint(3, 5) == {}
    assert placed(url, GPUS).expected(10) == {}


@pytest.mark.parametrize("url", [LOCAL, "http://192.168.0.20:11434"])
def test_server_with_memory_of_its_own_is_one_device(url: str) -> None:
    """Called like the provider; also at the end of a tunnel that ends on loopback."""
    assert placed(url, GPUS, memory=24 * GIB).footprint(3, 5) == {"box": 8}
    assert placed(url, GPUS, memory=24 * GIB).expected(10) == {"box": 12}


def test_expected_size_is_more_than_the_weights() -> None:
    """A cache and working memory stand beside them; on the GPU where there is one."""
    assert placed().expected(10 * GIB) == {"ram": 12 * GIB}
    assert placed(gpus=GPUS).expected(10 * GIB) == {"gpu0": 12 * GIB}
    assert placed(gpus=GPUS, device="ram").expected(10 * GIB) == {"ram": 12 * GIB}


def test_model_larger_than_the_gpu_is_expected_to_be_split() -> None:
    """As Ollama and LM Studio do; it must not be refused for being larger than the GPU."""
    footprint = placed(gpus=GPUS).expected(40 * GIB)
    assert sum(footprint.values()) == 48 * GIB
    assert footprint["gpu0"] < 24 * GIB


def test_gpu_of_unknown_size_takes_all() -> None:
    """Nothing better is known."""
    assert placed(gpus={"gpu0": 0}).expected(10) == {"gpu0": 12}

"""What Ollama says, and what we make of it. Source: Ollama's docs/api.md.

Law: only the fields we use are read, so that what a later version adds does no harm; what it leaves out stays unknown.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import msgspec

from .contract import Offer, Pulling
from .errors import PullFailed, UpstreamBroke
from .pricing import FREE

Size = Annotated[int, msgspec.Meta(ge=0)]

# Ollama's word → the contract's words. Others (image generation) are none of ours.
_CAPABILITIES = {
    "completion": ("chat", "completion"),
    "embedding": ("embedding",),
    "tools": ("tools",),
    "vision": ("vision",),
    "audio": ("audio",),
    "thinking": ("reasoning",),
    "insert": ("insert",),
}
_LAYERS_MAX = 65_536  # a model is a dozen layers, or a layer for each of its tensors: some thousand


class Details(msgspec.Struct, frozen=True):
    """`details` of /api/tags and /api/show."""

    family: str = ""
    parameter_size: str = ""
    quantization_level: str = ""


class Tag(msgspec.Struct, frozen=True):
    """One entry of /api/tags."""

    name: str
    size: Size = 0  # bytes on its disk
    digest: str = ""
    modified_at: str = ""
    details: Details | None = None
    remote_host: str = ""  # set: it runs elsewhere, in Ollama's cloud


class Tags(msgspec.Struct, frozen=True):
    """GET /api/tags. `models` must be there (null is how Go may write an empty list): any other JSON object is no Ollama."""

    models: list[Tag] | None


class Show(msgspec.Struct, frozen=True):
    """POST /api/show."""

    details: Details | None = None
    model_info: dict[str, object] | None = None
    capabilities: list[str] | None = None  # since 0.6.4

    def context_length(self) -> int | None:
        """What the model was made for, in tokens."""
        info = self.model_info or {}
        length = info.get(f"{info.get('general.architecture')}.context_length")
        return length if isinstance(length, int) and length > 0 else None

    def capability_words(self) -> tuple[str, ...]:
        """In the contract's vocabulary."""
        return tuple(word for said in self.capabilities or () for word in _CAPABILITIES.get(said, ()))


class Running(msgspec.Struct, frozen=True):
    """One entry of /api/ps. While a model loads it is listed already."""

    name: str
    size: Size = 0  # bytes in all memories
    size_vram: Size = 0  # bytes of that on GPUs
    digest: str = ""
    expires_at: str = ""  # set anew whenever a request ends
    context_length: int = 0


class Ps(msgspec.Struct, frozen=True):
    """GET /api/ps."""

    models: list[Running] | None


class Done(msgspec.Struct, frozen=True):
    """POST /api/generate without a prompt: it has loaded, or has been told to unload."""

    done: bool


class Embedded(msgspec.Struct, frozen=True):
    """POST /api/embed."""

    embeddings: list[msgspec.Raw]


class Version(msgspec.Struct, frozen=True):
    """GET /api/version."""

    version: str


class PullLine(msgspec.Struct, frozen=True):
    """One line of POST /api/pull."""

    status: str = ""
    digest: str = ""
    total: Size = 0
    completed: Size = 0
    error: str = ""


def offer(name: str, tag: Tag, show: Show | None) -> Offer:
    """What the catalogue says of a model.

    Args:
        show: None where Ollama did not tell.
    """
    listed, shown = tag.details or Details(), (show.details if show else None) or Details()
    return Offer(
        name=name,
        size_bytes=tag.size or None,
        family=listed.family or shown.family,
        parameters=listed.parameter_size or shown.parameter_size,
        quantization=listed.quantization_level or shown.quantization_level,
        context_length=show.context_length() if show else None,
        capabilities=show.capability_words() if show else (),
        price=FREE,
        created=_seconds(tag.modified_at),
    )


def _seconds(text: str) -> int:
    """Since the epoch; 0 for what is no time, or before (Go's zero time is in the year 1)."""
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        return 0
    return max(0, int((time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()))


class PullProgress:
    """Sums up the lines of one pull: Ollama counts each layer of a model by itself.

    Args:
        source: the provider's name; `name`: the model's. For errors.
    """

    def __init__(self, source: str, name: str) -> None:
        self._source = source
        self._name = name
        self._layers: dict[str, tuple[int, int]] = {}
        self._stage = ""
        self._done_bytes = 0
        self._total_bytes = 0

    @property
    def hashing(self) -> bool:
        """It reads the whole file again, and says nothing meanwhile."""
        return self._stage.startswith("verifying")

    def take(self, line: PullLine) -> Pulling:
        """The state after this line. Raises: PullFailed: Ollama says so. UpstreamBroke: no pull has so many layers."""
        if line.error:
            words = " ".join(line.error.split())[:500]
            raise PullFailed(f"{self._source} could not fetch {self._name}: {words}", source=self._source)
        self._stage = line.status
        if line.digest:
            done, total = self._layers.get(line.digest, (0, 0))
            # Before the first byte, and on some versions after the last, the counts are left out.
            layer = self._layers[line.digest] = (max(done, line.completed), max(total, line.total))
            self._done_bytes += layer[0] - done
            self._total_bytes += layer[1] - total
            if len(self._layers) > _LAYERS_MAX:
                raise UpstreamBroke(f"{self._source} sends progress without end", source=self._source)
        return Pulling(stage=line.status, done_bytes=self._done_bytes, total_bytes=self._total_bytes)

    def end(self) -> None:
        """No more lines. Raises: PullFailed: it was not complete."""
        if self._stage != "success":
            raise PullFailed(
                f"{self._source} broke off while fetching {self._name} ({self._stage or 'nothing done yet'}): pull again, "
                "it goes on where it was",
                source=self._source,
            )

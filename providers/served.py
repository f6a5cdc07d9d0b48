"""A model in somebody else's server, as residency sees an engine: no process of its own, sent to through the server's endpoint.

Law: `stop` is the server's own word that the model is gone; it is carried out once however many ask, and to its end even where
those who asked have left.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from .contract import EngineSpec, Request, Response
from .errors import ProviderError
from .process import outlast
from .transport import Endpoint


class ServedEngine:
    """One model that a server (Ollama, LM Studio) holds in its memory. Implements `contract.Engine`.

    Args:
        endpoint: the server's; not closed here.
        stop: tells the server to unload, returns when it has. Bounded by itself. Raises: ProviderError.
    """

    def __init__(self, spec: EngineSpec, endpoint: Endpoint, stop: Callable[[], Awaitable[None]]) -> None:
        self.spec = spec
        self._endpoint = endpoint
        self._unload = stop
        self._stopping: asyncio.Task[ProviderError | None] | None = None

    @property
    def pid(self) -> int | None:
        """None: it lives in the server's processes."""
        return None

    def log_lines(self) -> tuple[str, ...]:
        """(): the server keeps its log to itself."""
        return ()

    async def send(self, request: Request) -> Response:
        """Raises: UpstreamUnreachable, UpstreamTimeout, UpstreamBroke."""
        return await self._endpoint.send(request)

    async def stop(self) -> None:
        """Unload it. All who ask at once share one try; once it has succeeded there is nothing left to do; one that failed may
        be tried again. Cancelled, it goes on to its end first.

        Raises: ProviderError: the server still has it, or does not say.
        """
        if self._stopping is None:
            self._stopping = asyncio.get_running_loop().create_task(self._stop(), name=f"stop-{self.spec.target}")
        stopping = self._stopping
        failed = await outlast(stopping)
        if failed is not None:
            if self._stopping is stopping:
                self._stopping = None
            raise failed

    async def _stop(self) -> ProviderError | None:
        """The error as a value: raised inside `outlast` it would hide that the caller was cancelled."""
        try:
            await self._unload()
        except ProviderError as error:
            return error
        return None

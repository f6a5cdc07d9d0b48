"""Ports on the loopback interface for engines that must be told theirs.

Law: a port is handed out once until it is given back, and while its engine boots nobody else is given it by the kernel.
"""

from __future__ import annotations

import socket

LOOPBACK = "127.0.0.1"
_TRIES = 64


def free_port() -> int:
    """A port nobody listens on, kept from being handed out by the kernel for the next minute.

    A port found by `bind(0)` and closed again may be somebody else's the next moment. So it is used once: a connection
    to ourselves is accepted and closed by the accepting side first, which leaves that side in TIME_WAIT on this port
    (60 s on Linux, RFC 9293 §3.6.1). The kernel gives such a port to no `bind(0)` and no outgoing connection, while a
    server that sets SO_REUSEADDR, as nearly all do, or SO_REUSEPORT, as llama.cpp's does, may bind it.

    Raises: OSError: no port or no file descriptor is left.
    """
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if hasattr(socket, "SO_REUSEPORT"):  # both: a TIME_WAIT socket lets in only those that share its own flag
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind((LOOPBACK, 0))
        listener.listen(1)
        with socket.create_connection(listener.getsockname(), timeout=1.0) as client:
            accepted, _ = listener.accept()
            accepted.close()
            client.recv(1)  # the end of stream: its FIN has arrived, so ours is the second
        port: int = listener.getsockname()[1]
        return port


class Ports:
    """The ports our engines hold."""

    def __init__(self) -> None:
        self._held: set[int] = set()

    def take(self) -> int:
        """A free port, ours until `give_back`. Raises: OSError."""
        for _ in range(_TRIES):
            port = free_port()
            if port not in self._held:
                self._held.add(port)
                return port
        raise OSError(f"no free port on {LOOPBACK} in {_TRIES} tries")

    def give_back(self, port: int) -> None:
        """Its engine is gone. Idempotent."""
        self._held.discard(port)

    def held(self) -> frozenset[int]:
        """What is handed out now."""
        return frozenset(self._held)

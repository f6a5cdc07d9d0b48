"""When an engine that only speaks HTTP has come up, and whether it is really ours that answers.

Law: looking costs the engine nothing worth mentioning, and is never more than 20 ms late.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Container

from providers.errors import LoadFailed
from providers.listeners import is_ours
from providers.ports import LOOPBACK
from providers.process import Child

_FAST_POLL_S = 0.005  # while most engines boot; a refused connection costs some 60 µs
_SLOW_POLL_S = 0.015  # PERFORMANCE: readiness by event or by polls of at most 20 ms
_FAST_FOR_S = 5.0
_ANSWER_S = 5.0  # an engine may accept and be silent while it loads: ask anew after that
_STATUS_LINE_BYTES = 4096
_LINGER_OFF = b"\x01\0\0\0\0\0\0\0"  # struct linger {1, 0}: close by RST, no TIME_WAIT of ours on the engine's port


async def health_status(port: int, path: str, *, answer_s: float = _ANSWER_S) -> int:
    """One GET on the loopback interface: the answer's status, or 0 where nobody answered in HTTP in time."""
    loop = asyncio.get_running_loop()
    question = f"GET {path} HTTP/1.1\r\nhost: {LOOPBACK}:{port}\r\nconnection: close\r\n\r\n".encode()
    with socket.socket() as sock:
        sock.setblocking(False)
        try:
            async with asyncio.timeout(answer_s):
                await loop.sock_connect(sock, (LOOPBACK, port))
                if sock.getsockname() == sock.getpeername():
                    # Nobody listens, and the kernel chose this very port as our own: TCP connects to itself then.
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_OFF)
                    return 0
                await loop.sock_sendall(sock, question)
                head = b""
                while b"\r\n" not in head and len(head) < _STATUS_LINE_BYTES:
                    piece = await loop.sock_recv(sock, _STATUS_LINE_BYTES)
                    if not piece:
                        return 0
                    head += piece
        except OSError:  # refused, reset, or TimeoutError
            return 0
    version, _, rest = head.partition(b" ")
    return int(rest[:3]) if version.startswith(b"HTTP/1.") and rest[:3].isdigit() else 0


async def until_healthy(port: int, path: str, child: Child, *, source: str = "", ready: Container[int] = (200,)) -> str:
    """Ask until it answers 200; returns the engine's base URL. Never returns where it never does: bound it outside.

    Args:
        ready: the statuses that count, where it is not 200 alone.
    Raises: LoadFailed: what answers on this port is another process.
    """
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    while await health_status(port, path) not in ready:  # noqa: ASYNC110 - see below
        # A look at another process, which sets no event of ours.
        await asyncio.sleep(_FAST_POLL_S if loop.time() - began_s < _FAST_FOR_S else _SLOW_POLL_S)
    if not await asyncio.to_thread(is_ours, port, child.pid, child.mark):
        raise LoadFailed(
            f"another process answers on port {port} that was meant for the engine; try again", source=source
        )
    return f"http://{LOOPBACK}:{port}"

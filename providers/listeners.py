"""Which process listens on a port.

Law: it only ever says "another's" when it has seen so; where the platform does not tell, the answer is "ours".
"""

from __future__ import annotations

import os
import socket
import struct
from pathlib import Path

from providers.sweep import find_marked

# Their listening socket belongs to the container runtime, not to the client's process tree.
_CONTAINER_CLIENTS = frozenset({"docker", "podman", "nerdctl"})
# They listen for somebody else: what they pass on is not served by their own process tree.
_FORWARDERS = frozenset(
    {"docker-proxy", "rootlessport", "slirp4netns", "pasta", "conmon", "ssh", "sshd", "socat", "kubectl"}
)

# Source: sock_diag(7); linux/inet_diag.h, linux/netlink.h, linux/sock_diag.h, net/tcp_states.h.
_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_REQUEST_DUMP = 0x301  # NLM_F_REQUEST | NLM_F_DUMP
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_HEADER = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port
_ASK = struct.Struct("=BBBxI")  # inet_diag_req_v2: family, protocol, extensions, states; then inet_diag_sockid
_SOCKID = struct.Struct("!HH44x")  # source port, destination port; addresses, interface and cookie left open
_STATE_LISTEN = 10
_INODE_AT = 68  # in inet_diag_msg: 4 bytes, the sockid's 48, expires, rqueue, wqueue, uid, then the inode
_ANSWER_S = 1.0


def is_ours(port: int, pid: int, entry: bytes) -> bool:
    """Whether the process `pid`, or one marked `entry`, listens on this TCP port. True where it cannot be told.

    Blocking: a fraction of a millisecond when it is `pid` itself, else a scan of all processes.
    """
    sockets = listening_sockets(port)
    if not sockets:
        return True  # no such service (macOS), or it listens in another network namespace
    if _holds(pid, sockets):
        return True
    family = find_marked(entry, {pid})
    return any(_holds(member, sockets) or _name(member) in _CONTAINER_CLIENTS for member in family)


def listening_sockets(port: int) -> set[str]:
    """The sockets that listen on it, named as /proc/PID/fd does. Empty where the platform does not tell."""
    if not hasattr(socket, "AF_NETLINK"):
        return set()
    try:
        return {f"socket:[{inode}]" for family in (socket.AF_INET, socket.AF_INET6) for inode in _ask(family, port)}
    except OSError:
        return _from_proc(port)


def listener_pid(port: int) -> int | None:
    """The process that listens on this TCP port of this machine, the oldest where several share the socket.

    None: nobody, this process itself, one that is not ours to see, or one that only passes on what comes: a container's or a
    tunnel's. Blocking: a look at every descriptor that we may see, some milliseconds.
    """
    sockets = listening_sockets(port)
    if not sockets or not os.path.isdir("/proc/self"):
        return None
    pids = sorted(int(name) for name in os.listdir("/proc") if name.isdigit())
    found = next((pid for pid in pids if _holds(pid, sockets, hidden=False)), None)
    return None if found is None or found == os.getpid() or _name(found) in _FORWARDERS else found


def is_unused(port: int) -> bool:
    """Seen that nobody on this machine listens on it. False where the platform does not tell."""
    return os.path.isdir("/proc/self") and not listening_sockets(port)


def _ask(family: int, port: int) -> set[int]:
    """Inodes of the listening sockets, asked from the kernel. /proc/net/tcp would walk all connections: 8 ms.

    Raises: OSError: this kernel does not answer such questions.
    """
    ask = _ASK.pack(family, socket.IPPROTO_TCP, 0, 1 << _STATE_LISTEN) + _SOCKID.pack(port, 0)
    found: set[int] = set()
    with socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, _NETLINK_SOCK_DIAG) as netlink:
        netlink.settimeout(_ANSWER_S)
        netlink.send(_HEADER.pack(_HEADER.size + len(ask), _SOCK_DIAG_BY_FAMILY, _REQUEST_DUMP, 1, 0) + ask)
        while True:
            data, at = netlink.recv(1 << 16), 0
            while at + _HEADER.size <= len(data):
                length, kind, *_ = _HEADER.unpack_from(data, at)
                if kind == _NLMSG_DONE:
                    return found
                if kind == _NLMSG_ERROR or length < _HEADER.size:
                    raise OSError("sock_diag is not answered")
                body = at + _HEADER.size
                # The kernel's filter is by port already; a kernel that ignores it must not mislead us.
                if struct.unpack_from("!H", data, body + 4)[0] == port:
                    found.add(struct.unpack_from("=I", data, body + _INODE_AT)[0])
                at += (length + 3) & ~3


def _from_proc(port: int) -> set[str]:
    """The same from proc(5), /proc/net/tcp and tcp6."""
    found: set[str] = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            lines = Path(table).read_text().splitlines()[1:]
        except OSError:
            continue
        for fields in map(str.split, lines):
            if int(fields[3], 16) == _STATE_LISTEN and int(fields[1].rpartition(":")[2], 16) == port:
                found.add(f"socket:[{fields[9]}]")
    return found


def _holds(pid: int, sockets: set[str], *, hidden: bool = True) -> bool:
    """`hidden`: the answer for a process that is not ours to see."""
    folder = f"/proc/{pid}/fd"
    try:
        descriptors = os.listdir(folder)
    except PermissionError:
        return hidden  # it changed its user
    except OSError:
        return False
    for descriptor in descriptors:
        try:
            if os.readlink(f"{folder}/{descriptor}") in sockets:
                return True
        except OSError:
            continue
    return False


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""

"""Whether a port is free, asked before programs are started that would fail at it one by one."""

from __future__ import annotations

import errno
import socket


def is_taken(host: str, port: int) -> bool:
    """Whether another program listens there. Of a host or port that cannot be had for other reasons, the server itself tells."""
    try:
        places = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError:
        return False
    for family, kind, protocol, _, address in places:
        try:
            with socket.socket(family, kind, protocol) as attempt:
                attempt.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                attempt.bind(address)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return True
    return False

"""Whether a port is free, checked before programs start that would each fail on it."""

from __future__ import annotations

import errno
import socket


def is_taken(host: str, port: int) -> bool:
    """Returns whether another program has the port. Any other problem with host or port is left for the server to report."""
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

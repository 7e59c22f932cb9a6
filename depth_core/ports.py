"""Ports that programs listen at: opened, or checked before programs start that would each fail on them, with one clear error."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from depth_core.errors import ConfigurationError

_BACKLOG = 2048
_NO_ADDRESS_HERE = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)


@dataclass(frozen=True)
class Place:
    """Where a program is to listen, and by what people say so."""

    host: str
    port: int
    host_option: str  # "DEPTH_API_HOST"
    port_option: str  # "DEPTH_API_PORT"

    @contextmanager
    def listening(self) -> Iterator[list[socket.socket]]:
        """Sockets that listen at all addresses of the host, of "localhost" perhaps two, until the block ends.

        Raises ConfigurationError with the cure when the port is taken or not allowed, or the host is not this machine.
        """
        with ExitStack() as opened:
            yield [opened.enter_context(each) for each in self._open()]

    def check(self) -> None:
        """Raises ConfigurationError when nobody could listen there now."""
        with self.listening():
            pass

    def _open(self) -> list[socket.socket]:
        opened: list[socket.socket] = []
        elsewhere: OSError | None = None
        try:
            for family, address in self._addresses():
                try:
                    opened.append(_listening(family, address))
                except OSError as error:
                    if error.errno not in _NO_ADDRESS_HERE:  # localhost has ::1 where IPv6 is switched off, too
                        raise
                    elsewhere = error
            if not opened and elsewhere:
                raise elsewhere
        except OSError as error:
            for each in opened:
                each.close()
            raise ConfigurationError(self._explain(error)) from None
        return opened

    def explain_taken(self) -> str:
        """What to say when another program listens there."""
        return f"port {self.port} of {self.host} is taken: end what listens there, or choose another with {self.port_option}"

    def _addresses(self) -> list[tuple[socket.AddressFamily, tuple[object, ...]]]:
        try:
            found = socket.getaddrinfo(self.host or None, self.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        except (OSError, UnicodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not a host name"
            raise ConfigurationError(
                f"cannot find the host {self.host} ({reason}): choose a name or address of this machine with {self.host_option}"
            ) from None
        return list(dict.fromkeys((family, address) for family, _, _, _, address in found))

    def _explain(self, error: OSError) -> str:
        where = f"port {self.port} of {self.host}"
        if error.errno == errno.EADDRINUSE:
            return self.explain_taken()
        if error.errno in (errno.EACCES, errno.EPERM):
            return f"{where} needs rights that this user does not have: choose one from 1024 on with {self.port_option}"
        if error.errno in _NO_ADDRESS_HERE:
            return f"{self.host} is no address of this machine: choose one that is with {self.host_option}"
        return f"cannot listen at {where}: {os.strerror(error.errno) if error.errno else error}"


def _listening(family: socket.AddressFamily, address: tuple[object, ...]) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port that has just been left is free
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)  # IPv4 has a socket of its own
        listener.bind(address)
        listener.listen(_BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener

"""Listening sockets, bound before anything is served."""

from __future__ import annotations

import errno
import resource
import socket

WANTED_DESCRIPTORS = 65_536


def open_sockets(host: str, port: int) -> list[socket.socket]:
    """Bind the listening sockets: both loopbacks for `localhost`, IPv4 too for `::`. Raises OSError."""
    families = _addresses(host)
    sockets: list[socket.socket] = []
    for family, address in families:
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(host != "::"))
        try:
            listener.bind((address, port))
        except OSError as error:
            listener.close()
            if sockets and error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                continue  # The machine has no IPv6.
            for opened in sockets:
                opened.close()
            raise OSError(f"PORT={port} on HOST={host}: {error.strerror}") from None
        port = listener.getsockname()[1]
        sockets.append(listener)
    return sockets


def _addresses(host: str) -> list[tuple[socket.AddressFamily, str]]:
    if host == "localhost":
        both = [(socket.AF_INET, "127.0.0.1")]
        return [*both, (socket.AF_INET6, "::1")] if socket.has_ipv6 else both
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        raise OSError(f"HOST={host!r} is no address of this machine") from None
    return [(found[0][0], str(found[0][4][0]))]


def raise_descriptor_limit() -> None:
    """Allow as many open connections as the system does; a stream takes two."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = WANTED_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, WANTED_DESCRIPTORS)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))

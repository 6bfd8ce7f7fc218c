"""Opens the listening sockets."""

from __future__ import annotations

import errno
import os
import resource
import socket
from dataclasses import dataclass

from flowise_gateway.config.setting_values import is_loopback_host

WANTED_DESCRIPTORS = 65_536
FIRST_ACTIVATED = 3
"""The first file descriptor passed by systemd (sd_listen_fds(3))."""


@dataclass(frozen=True)
class Inherited:
    """Inherited listening sockets; `is_shared` means that they stay open without this process."""

    sockets: list[socket.socket]
    is_shared: bool

    @property
    def host(self) -> str:
        """A non-loopback address, if there is one, since client keys are then required."""
        hosts: list[str] = [listener.getsockname()[0] for listener in self.sockets]
        return next((host for host in hosts if not is_loopback_host(host)), hosts[0])


def inherited_sockets() -> Inherited | None:
    """The sockets opened by the predecessor of this process or by systemd (LISTEN_FDS). Raises OSError."""
    activated = os.environ.get("LISTEN_FDS", "0")
    is_ours = os.environ.pop("LISTEN_PID", "") == str(os.getpid())
    if passed_on := os.environ.pop("GUNICORN_FD", ""):
        descriptors = [int(number) for number in passed_on.split(",")]
    elif is_ours and activated.isdecimal():
        # LISTEN_FDS stays in the environment for the successor of this process.
        descriptors = list(range(FIRST_ACTIVATED, FIRST_ACTIVATED + int(activated)))
    else:
        os.environ.pop("LISTEN_FDS", None)  # meant for another process
        return None
    sockets = [socket.socket(fileno=number) for number in descriptors]
    if any(one.family not in (socket.AF_INET, socket.AF_INET6) for one in sockets):
        raise OSError("LISTEN_FDS: only TCP sockets are served")
    return Inherited(sockets, "LISTEN_FDS" in os.environ) if sockets else None


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
                continue  # no IPv6
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
        raise OSError(f"HOST={host!r} is not an address of this machine") from None
    return [(found[0][0], str(found[0][4][0]))]


def raise_descriptor_limit() -> None:
    """Raise the limit of open files to the hard limit; a stream needs two."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = WANTED_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, WANTED_DESCRIPTORS)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))

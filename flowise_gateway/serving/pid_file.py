"""The file with the process id of the server on a port, for `flowise-gateway reload`."""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path
from typing import IO

FOLDER = Path("data")


class PidFile:
    """Contains the id of this process, and is locked while the process lives.

    Workers do not inherit the lock. So the id that a killed server left, and that may belong to another
    process by now, is ignored. If several processes write the file, the last one is found.
    """

    def __init__(self, port: int) -> None:
        """The file for the server on this port, as given in its settings."""
        self._path = FOLDER / f"flowise-gateway-{port}.pid"
        self._file: IO[str] | None = None

    def write(self) -> None:
        """Write the id of this process. Raises OSError."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        beside = self._path.with_name(f"{self._path.name}.{os.getpid()}")
        self._file = beside.open("w")
        fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self._file.write(f"{os.getpid()}\n")
        self._file.flush()
        beside.replace(self._path)

    def remove(self) -> None:
        """Remove the file, unless another process has taken its place."""
        if self._file is None:
            return
        with contextlib.suppress(OSError), self._file:
            if os.path.samestat(os.fstat(self._file.fileno()), self._path.stat()):
                self._path.unlink()

    def pid(self) -> int | None:
        """The id of the running server, if any. Raises OSError."""
        with contextlib.suppress(FileNotFoundError), self._path.open("r+") as file:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                return int(file.read())
        return None

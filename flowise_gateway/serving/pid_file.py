"""The file that tells which process serves at a port, for `flowise-gateway reload`."""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path
from typing import IO

FOLDER = Path("data")


class PidFile:
    """Holds the number of this process, and is locked as long as the process lives.

    The lock is the process's own, which its workers do not inherit: the number that a killed server has left,
    and that may be any process's by now, is not believed. The process that wrote last is the one found.
    """

    def __init__(self, port: int) -> None:
        """Stand for the process that serves at this port, as its settings name it."""
        self._path = FOLDER / f"flowise-gateway-{port}.pid"
        self._file: IO[str] | None = None

    def write(self) -> None:
        """Name this process. Raises OSError."""
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
        """The process that serves, if any. Raises OSError."""
        with contextlib.suppress(FileNotFoundError), self._path.open("r+") as file:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                return int(file.read())
        return None

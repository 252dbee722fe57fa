"""Where the three files of an instance lie (files.py): in memory, one directory each, or in its directory on disk.

They are written anew at each start and mean nothing after a reboot, so they need no disk. What is in memory may be full
at any time, since instances write to their files: the next one's are then on disk.
"""

from __future__ import annotations

import errno
import os

from bireme.engine.files import NAMES, write_files


class EtcFiles:
    """On disk, until there is memory to `use`."""

    def __init__(self) -> None:
        self._memory = ""

    def use(self, memory: str) -> None:
        """A directory in memory, before the first question."""
        self._memory = memory

    def directory(self, identity: str, disk: str) -> str:
        """Where the files of an instance are, or will be; `disk` is its directory."""
        memory = f"{self._memory}/{identity}"
        if self._memory and (os.path.exists(memory) or not os.path.exists(f"{disk}/{NAMES[0][0]}")):
            return memory
        return disk

    def write(self, identity: str, disk: str, texts: dict[str, str]) -> str:
        """Write them; the directory they are in."""
        if self._memory and not self._full(identity, texts):
            return f"{self._memory}/{identity}"
        write_files(disk, texts)
        return disk

    def _full(self, identity: str, texts: dict[str, str]) -> bool:
        directory = f"{self._memory}/{identity}"
        try:
            os.makedirs(directory, 0o700, exist_ok=True)
            write_files(directory, texts)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            self.remove(identity)
            return True
        return False

    def remove(self, identity: str) -> None:
        """Forget those in memory."""
        if not self._memory:
            return
        directory = f"{self._memory}/{identity}"
        try:
            for name, _ in NAMES:
                _unlink(f"{directory}/{name}")
            os.rmdir(directory)
        except FileNotFoundError:
            pass

    def identities(self) -> list[str]:
        """Whose files are in memory."""
        return os.listdir(self._memory) if self._memory else []


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass

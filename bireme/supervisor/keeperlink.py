"""The supervisor's end of the socket to the keeper: see keeper.py for the words."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, NamedTuple

from bireme.linux import fd as fdlib
from bireme.linux import process
from bireme.supervisor import program

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_MAX_NAMES = 60
_PATIENCE_S = 10.0


class Handover(NamedTuple):
    """What a new supervisor gets: descriptors by name and the exits nobody has written down."""

    fds: dict[str, int]
    exits: list[process.Exit]


class KeeperLink:
    """`hold` and `drop` what must outlive us; `on_exit` gets exits of processes that are not our children, `on_stop`
    the wish to end. `held` mirrors what the keeper has, for the case that we must take its place."""

    def __init__(self, fd: int) -> None:
        self._sock = socket.socket(fileno=fd)
        self._sock.set_inheritable(False)
        self._sock.settimeout(_PATIENCE_S)
        self.held: dict[str, int] = {}
        self._dropped: list[str] = []
        self._synced: dict[str, Callable[[], object]] = {}
        self._syncs = 0
        self.lost = False
        self.on_exit: Callable[[process.Exit], None] = lambda ended: None
        self.on_stop: Callable[[], None] = lambda: None
        self.on_lost: Callable[[], None] = lambda: None

    def fileno(self) -> int:
        return self._sock.fileno()

    def close(self) -> None:
        self._sock.close()

    def receive_handover(self) -> Handover:
        """Everything up to `done`; a keeper that dies meanwhile has handed over what it has handed over."""
        handover = Handover({}, [])
        while True:
            data, fds = fdlib.recv_fds(self._sock)
            verb, *words = data.decode().split("\n")
            if verb == "fd":
                handover.fds.update(zip(words, fds, strict=True))
            elif verb == "exit":
                handover.exits.append(_exit(words))
            elif verb == "stop":
                self.on_stop()
            else:
                if not data:
                    self._lose()
                self.held.update(handover.fds)
                return handover

    def on_readable(self, _mask: int) -> None:
        """For the loop."""
        try:
            data, fds = fdlib.recv_fds(self._sock)
        except TimeoutError:
            return
        except ConnectionResetError:
            data, fds = b"", []
        fdlib.close_quietly(*fds)
        verb, *words = data.decode().split("\n")
        if not data:
            self._lose()
        elif verb == "exit":
            self.on_exit(_exit(words))
        elif verb == "stop":
            self.on_stop()
        elif verb == "synced":
            self._synced.pop(words[0], lambda: None)()

    def _lose(self) -> None:
        if not self.lost:
            self.lost = True
            self.on_lost()

    def hold(self, fds: dict[str, int]) -> None:
        """They are in the keeper's socket when this returns: a kill of ours afterwards does not close them."""
        self.held.update(fds)
        self._send(["hold", *fds], list(fds.values()))

    def drop(self, names: Sequence[str]) -> None:
        """Forget these, in idle time; unknown names are ignored."""
        for name in names:
            if self.held.pop(name, None) is not None:
                self._dropped.append(name)

    def flush(self) -> None:
        """Send what was dropped."""
        while self._dropped:
            part, self._dropped = self._dropped[:_MAX_NAMES], self._dropped[_MAX_NAMES:]
            self._send(["drop", *part])

    def sync(self, callback: Callable[[], object]) -> None:
        """Call back once the keeper has let go of everything dropped before."""
        self.flush()
        self._syncs += 1
        self._synced[str(self._syncs)] = callback
        self._send(["sync", str(self._syncs)])

    def forget(self, pid: int) -> None:
        self._send(["forget", str(pid)])

    def ready(self) -> None:
        self._send(["ready"])

    def end(self) -> None:
        """Nothing runs, nothing is left: the keeper ends after us."""
        self._send(["end"])

    def _send(self, words: list[str], fds: list[int] | None = None) -> None:
        if self.lost:
            return
        try:
            fdlib.send_fds(self._sock, "\n".join(words).encode(), fds or [])
        except (BrokenPipeError, ConnectionResetError):
            self._lose()
        except TimeoutError:
            program.log("supervisor", "the keeper does not listen")


def _exit(words: list[str]) -> process.Exit:
    pid, code, signum = (int(word) for word in words)
    return process.Exit(pid, code, signum)

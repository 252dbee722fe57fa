"""Signals that we get while attached are the container's: they are passed on, and the terminal's size with them.

The handlers ask the engine themselves, each on a connection of its own: a signal may arrive in the middle of any other
exchange. `_signal` is the C half of `signal`, without its enums (4 ms).
"""

from __future__ import annotations

from bireme.cli.terminal import terminal_size
from bireme.errors import BiremeError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from collections.abc import Callable
    from types import TracebackType
    from typing import Any

    from bireme.client.engine import Engine
else:
    import _signal

_FORWARDED = "HUP INT QUIT USR1 USR2 ALRM TERM CONT TSTP PROF VTALRM IO PWR XCPU XFSZ TRAP ABRT SYS STKFLT".split()


def _numbers() -> dict[int, str]:
    names = ((getattr(_signal, f"SIG{name}", 0), name) for name in _FORWARDED)
    return {int(number): name for number, name in names if number}


class _Handlers:
    """Signal handlers that are put back at the end of the context."""

    def __init__(self) -> None:
        self._saved: dict[int, Any] = {}

    def install(self, number: int, handler: Callable[[int, object], None]) -> None:
        self._saved[number] = _signal.signal(number, handler)

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        saved, self._saved = self._saved, {}
        for number, handler in saved.items():
            _signal.signal(number, handler if handler is not None else _signal.SIG_DFL)


class SignalForwarder(_Handlers):
    """Passes signals on to a container; those that come before `ready` wait for it."""

    def __init__(self, engine: Engine, container: str) -> None:
        super().__init__()
        self._engine, self._container = engine, container
        self._waiting: list[str] | None = []
        self._names = _numbers()

    def __enter__(self) -> None:
        for number in self._names:
            if _signal.getsignal(number) != _signal.SIG_IGN:
                self.install(number, self._handle)

    def ready(self) -> None:
        """The container runs: send what has been waiting, and everything from now on at once."""
        waiting, self._waiting = self._waiting or [], None
        for name in waiting:
            self._send(name)

    def _handle(self, number: int, frame: object) -> None:
        if self._waiting is not None:
            self._waiting.append(self._names[number])
        else:
            self._send(self._names[number])

    def _send(self, name: str) -> None:
        engine = self._engine.again()
        try:
            engine.act(self._container, "kill", {"signal": name})
        except (BiremeError, OSError):
            pass  # it has just ended, or the engine has: the wait will tell
        finally:
            engine.close()


class SizeForwarder(_Handlers):
    """Tells the terminal inside the size of ours, now and whenever it changes. `path` is /containers/ID or /exec/ID."""

    def __init__(self, engine: Engine, path: str, descriptor: int) -> None:
        super().__init__()
        self._engine, self._path, self._descriptor = engine, path, descriptor
        self._last = (0, 0)

    def __enter__(self) -> None:
        self.install(_signal.SIGWINCH, lambda number, frame: self.send())

    def send(self) -> None:
        size = terminal_size(self._descriptor)
        if size in ((0, 0), self._last):
            return
        engine = self._engine.again()
        try:
            engine.resize(self._path, *size)
            self._last = size
        except (BiremeError, OSError):
            pass  # not started yet, or ended
        finally:
            engine.close()

"""A container's first process on our terminal: attach, then start, then copy until it ends or the user detaches.

us                                   engine
| attach -------------------------->  |   registered before the start, so no output is missed
| wait (next-exit or removed) ----->  |   likewise the exit code
|  <------------ 101, 200 ----------  |
| start --------------------------->  |
|  <============ stream ===========>  |
|  <------------ exit code ---------  |
"""

from __future__ import annotations

from bireme.cli.signals import SignalForwarder, SizeForwarder
from bireme.cli.streams import AttachedStreams
from bireme.cli.terminal import DetachFilter, RawTerminal, parse_detach_keys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from bireme.cli.invocation import Invocation
    from bireme.client.engine import HijackedStream


class Attachment:
    def __init__(
        self,
        invocation: Invocation,
        container: str,
        *,
        stdin: bool,
        stdout: bool,
        stderr: bool,
        terminal: bool,
        proxy: bool,
        detach_keys: str,
        logs: bool = False,
    ) -> None:
        self._invocation = invocation
        self._container = container
        self._stdin, self._stdout, self._stderr = stdin, stdout, stderr
        self._terminal = terminal
        self._proxy = proxy
        self._query: dict[str, object] = {
            "stream": True,
            "stdin": stdin,
            "stdout": stdout,
            "stderr": stderr,
            "logs": logs,
            "detachKeys": detach_keys,
        }
        self._keys = detach_keys
        if terminal and stdin:
            parse_detach_keys(detach_keys)

    def follow(self, start: Callable[[], None] | None, condition: str) -> int | None:
        """Attach, start, copy, and wait for the exit code; None when the user detached."""
        engine = self._invocation.engine
        forwarder = SignalForwarder(engine, self._container)
        with forwarder if self._proxy else _NOTHING:
            attach = engine.send_attach(self._container, self._query)
            waiting = engine.send_wait(self._container, condition)
            stream = engine.receive_stream(attach)
            wait = engine.receive_wait(waiting)
            try:
                if start is not None:
                    start()
                forwarder.ready()
                return None if self._copy(stream) else wait.result()
            finally:
                stream.close()
                wait.close()

    def _copy(self, stream: HijackedStream) -> bool:
        return copy_streams(
            self._invocation,
            stream,
            f"/containers/{self._container}",
            stdin=self._stdin,
            stdout=self._stdout,
            stderr=self._stderr,
            terminal=self._terminal,
            detach_keys=self._keys,
        )


def copy_streams(
    invocation: Invocation,
    stream: HijackedStream,
    path: str,
    *,
    stdin: bool,
    terminal: bool,
    detach_keys: str,
    stdout: bool = True,
    stderr: bool = True,
) -> bool:
    """Copy between `stream` and ours until it ends, in raw mode where there is a terminal inside (at `path`)."""
    streams = AttachedStreams(
        stream,
        raw=terminal,
        stdin=0 if stdin else -1,
        stdout=1 if stdout else -1,
        stderr=2 if stderr else -1,
        detach=DetachFilter(parse_detach_keys(detach_keys)) if terminal and stdin else None,
    )
    if not terminal:
        return streams.run()
    size = SizeForwarder(invocation.engine, path, 1)
    with size, RawTerminal(0) if stdin else _NOTHING:
        size.send()
        return streams.run()


class _Nothing:
    def __enter__(self) -> None:
        pass

    def __exit__(self, *details: object) -> None:
        pass


_NOTHING = _Nothing()

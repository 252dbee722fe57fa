"""The supervisor's side of the output of instances: when the logger gets a stream, and what it gets again.

Most instances of a busy machine say nothing, so a stream goes to the logger with its first byte (or its first attached
client): until then the supervisor watches it. One that ends without a word never reaches the logger at all.

    quiet ---- first byte, first client ----> engaged ---- drained (logger) ----> drained
      `------------------- end of all streams without a byte ----------------------^

The supervisor keeps its own descriptors of streams and clients until the output is drained, and the keeper duplicates
of them, so a new logger or a new supervisor goes on where the old one was.
"""

from __future__ import annotations

import os
import select
import socket
from typing import TYPE_CHECKING, Any, NamedTuple

from bireme.linux import fd as fdlib
from bireme.linux.poll import READ
from bireme.supervisor import program

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from bireme.linux.poll import Loop
    from bireme.supervisor.keeperlink import KeeperLink
    from bireme.supervisor.service import Service

_SETTLE_AFTER_S = 2.0
"""As long as Docker waits for output after the first process has ended."""
_SETTLE_ANSWER_S = 2.0


class Client(NamedTuple):
    """An attached client: our end of its socket and the streams it wants."""

    fd: int
    stdout: bool
    stderr: bool


class Output:
    """The output of one instance, or of an exec nobody reads. `key` is what the keeper's names of it begin with,
    `place` the slot's small number: it names the ledger's entries."""

    __slots__ = (
        "clients",
        "drained",
        "engaged",
        "key",
        "log",
        "next_client",
        "on_drained",
        "on_finished",
        "place",
        "raw",
        "sources",
    )

    def __init__(self, key: str, place: int, *, raw: bool, log: Mapping[str, Any], sources: dict[str, int]) -> None:
        self.key = key
        self.place = place
        self.raw = raw
        self.log = log
        self.sources = sources
        self.clients: dict[int, Client] = {}
        self.next_client = 0
        self.engaged = False
        self.drained = False
        self.on_finished: Callable[[], None] | None = None
        """Waits for the end, but not forever (see `finish`)."""
        self.on_drained: Callable[[], None] | None = None
        """Waits for the end: the ledger's entries may be used again."""

    def ledger_index(self, stream: str) -> int:
        """0, which the logger does not remember, for output nobody logs."""
        if not self.log:
            return 0
        return 2 * self.place + (2 if stream == "stderr" else 1)

    def stream_names(self) -> list[str]:
        """What the keeper calls our descriptors."""
        return [f"{self.key}/{'console' if self.raw else stream}" for stream in self.sources]

    def client_name(self, number: int) -> str:
        """Says all there is to say about a client, for a supervisor that finds it with the keeper."""
        client = self.clients[number]
        return f"{self.key}/client/{number}/{int(client.stdout)}{int(client.stderr)}"


class Outputs:
    """All of them, and the logger. `ledger`: the ledger's memfd and both ends of the stage."""

    def __init__(self, loop: Loop, keeper: KeeperLink, logger: Service, ledger: tuple[int, int, int]) -> None:
        self._loop = loop
        self._keeper = keeper
        self._logger = logger
        self._outputs: dict[str, Output] = {}
        self._quiet: dict[int, Output] = {}
        self._ledger = ledger
        self._complete = False
        logger.on_message = self._on_message
        logger.on_started = self._on_logger_started
        self._introduce()

    def add(self, output: Output) -> None:
        """Watch a new output."""
        self._outputs[output.key] = output
        for fd in output.sources.values():
            self._quiet[fd] = output
            self._loop.add(fd, self._watcher(fd))

    def _watcher(self, fd: int) -> Callable[[int], None]:
        return lambda mask: self._on_quiet(fd, mask)

    def resume(self, output: Output) -> None:
        """An output that a predecessor had: it may be unfinished with the logger."""
        self._outputs[output.key] = output
        self._engage(output, fresh=False)

    def add_client(self, output: Output, client: Client) -> None:
        """Attach; the descriptor is ours from now on."""
        if output.drained:
            hang_up(client.fd)
            return
        number = output.next_client
        output.next_client += 1
        output.clients[number] = client
        self._keeper.hold({output.client_name(number): client.fd})
        if output.engaged:
            message = {"op": "sink", "key": output.key, **_describe(number, client)}
            self._logger.send(message, [client.fd])
        else:
            self._engage(output, fresh=True)

    def _on_quiet(self, fd: int, mask: int) -> None:
        output = self._quiet[fd]
        if mask & READ:
            self._engage(output, fresh=True)
            return
        self._loop.remove(fd)
        del self._quiet[fd]
        if not any(other in self._quiet for other in output.sources.values()):
            self._drain(output)

    def _unwatch(self, output: Output) -> None:
        for fd in output.sources.values():
            if self._quiet.pop(fd, None) is not None:
                self._loop.remove(fd)

    def _engage(self, output: Output, *, fresh: bool) -> None:
        self._unwatch(output)
        output.engaged = True
        self._open(output, fresh=fresh)

    def _open(self, output: Output, *, fresh: bool) -> None:
        log: dict[str, Any] = {}
        fds: list[int] = []
        directory = -1
        if output.log:
            path = output.log["path"]
            try:
                directory = os.open(os.path.dirname(path), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            except OSError as error:
                program.log("supervisor", f"output of {path} is not kept: {error}")
            else:
                fds.append(directory)
                log = {
                    "name": os.path.basename(path),
                    "max_size_bytes": output.log["max_size_bytes"],
                    "max_files": output.log["max_files"],
                }
        sources = [
            {"stream": stream, "index": output.ledger_index(stream), "fresh": fresh} for stream in output.sources
        ]
        fds.extend(output.sources.values())
        sinks = [_describe(number, client) for number, client in output.clients.items()]
        fds.extend(client.fd for client in output.clients.values())
        self._logger.send(
            {"op": "open", "key": output.key, "raw": output.raw, "log": log, "sources": sources, "sinks": sinks}, fds
        )
        fdlib.close_quietly(directory)

    def _introduce(self) -> None:
        self._logger.send({"op": "ledger"}, self._ledger)

    def _on_logger_started(self) -> None:
        """A new logger gets everything its predecessor had, and only then begins."""
        self._introduce()
        for output in list(self._outputs.values()):
            if output.engaged:
                self._open(output, fresh=False)
        if self._complete:
            self._logger.send({"op": "begin"})

    def begin(self) -> None:
        """All outputs of a predecessor are resumed: the logger may finish the step it finds in the ledger."""
        self._complete = True
        self._logger.send({"op": "begin"})

    def _on_message(self, message: dict[str, Any], fds: list[int]) -> None:
        fdlib.close_quietly(*fds)
        output = self._outputs.get(message["key"])
        if output is None:
            return
        event = message["event"]
        if event == "drained":
            self._drain(output)
        elif event == "settled":
            self._report(output)
        elif event == "gone":
            number = message["sink"]
            if number in output.clients:
                self._keeper.drop([output.client_name(number)])
                os.close(output.clients.pop(number).fd)

    def finish(self, output: Output, callback: Callable[[], None]) -> None:
        """The first process has ended: call back when everything it said is where it belongs.

        Bounded: what a stranger keeps open, or a client does not read, delays the callback by a few seconds only.
        """
        output.on_finished = callback
        if output.drained:
            self._report(output)
            return
        if not output.engaged and not _all_at_end(output):
            self._engage(output, fresh=True)
        if not output.engaged:
            self._unwatch(output)
            self._drain(output)
            return
        self._loop.call_later(_SETTLE_AFTER_S, lambda: self._settle(output))

    def _settle(self, output: Output) -> None:
        if output.on_finished is not None:
            self._logger.send({"op": "settle", "key": output.key})
            self._loop.call_later(_SETTLE_ANSWER_S, lambda: self._report(output))

    def _drain(self, output: Output) -> None:
        """Everything is said and delivered: clients see the end."""
        if output.drained:
            return
        output.drained = True
        self.release(output)
        self._report(output)
        if output.on_drained is not None:
            output.on_drained()

    def _report(self, output: Output) -> None:
        callback, output.on_finished = output.on_finished, None
        if callback is not None:
            callback()

    def release(self, output: Output) -> None:
        """Close what is ours and the keeper's of it."""
        self._unwatch(output)
        self._outputs.pop(output.key, None)
        names = [output.client_name(number) for number in output.clients] + output.stream_names()
        self._keeper.drop(names)
        for client in output.clients.values():
            hang_up(client.fd)
        output.clients.clear()
        fdlib.close_quietly(*output.sources.values())
        output.sources.clear()


def hang_up(fd: int) -> None:
    """The other side of a client's socket sees the end, whoever holds duplicates."""
    with socket.socket(fileno=fd) as sock:
        try:
            sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            return


def _all_at_end(output: Output) -> bool:
    """No writer is left and nothing is unread."""
    poller = select.poll()
    for fd in output.sources.values():
        poller.register(fd, select.POLLIN)
    found = dict(poller.poll(0))
    return all(found.get(fd, 0) & (select.POLLIN | select.POLLHUP) == select.POLLHUP for fd in output.sources.values())


def _describe(number: int, client: Client) -> dict[str, Any]:
    return {"sink": number, "stdout": client.stdout, "stderr": client.stderr}

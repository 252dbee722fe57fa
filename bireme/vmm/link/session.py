"""The dialogue with the agent (wire/agent): one control connection for the life of the machine.

Everything here is said by a guest. A head that cannot be a frame ends the session, and with it the machine; a body that
does not decode, an answer nobody asked for, an event about an unknown process are dropped and counted.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, NamedTuple

from bireme.errors import BiremeError, Deadline, Invalid, Unavailable
from bireme.wire import agent
from bireme.wire.agent import Kind

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from bireme.linux.poll import Loop, Timer
    from bireme.vmm.link.contract import Connection

ANSWER_TIMEOUT_S = 60.0
"""A machine may be slow (an emulated or a swapping host); an agent that says nothing for so long is not coming back."""

MAX_QUEUED = 8 << 20
"""Bytes of requests that wait for a guest which does not read."""


class GuestFailed(BiremeError):
    """An `error` answer of the agent: `stage` is where, `errno` the guest kernel's reason."""

    kind = "invalid"

    def __init__(self, stage: str, errno: int, subject: str, message: str) -> None:
        super().__init__(message, subject=subject, place=stage)
        self.stage = stage
        self.errno = errno


class Asked(NamedTuple):
    """A request without its answer yet."""

    timer: Timer
    answered: Callable[[dict[str, Any] | BiremeError], None]


class Session:
    """See the head. `on_hello(fields)`, `on_exited(number, code, signal)`, `on_lost(reason)` tell the link."""

    def __init__(
        self,
        loop: Loop,
        on_hello: Callable[[dict[str, Any]], None],
        on_exited: Callable[[int, int, int], None],
        on_lost: Callable[[str], None],
    ) -> None:
        self._loop = loop
        self._on_hello = on_hello
        self._on_exited = on_exited
        self._on_lost = on_lost
        self._connection: Connection | None = None
        self._decoder = agent.Decoder()
        self._queued = bytearray()
        self._asked: dict[int, Asked] = {}
        self._rid = 0
        self._heard = 0
        self.lost = ""
        self.hello: dict[str, Any] = {}
        self.counters = {"frames": 0, "dropped": 0, "requests": 0}
        self.last_dropped = ""
        self.paused = False

    def accept(self, connection: Connection) -> Session | None:
        """The handler of a connection to the control port; there is one in a machine's life."""
        if self._connection is not None or self.lost:
            return None
        self._connection = connection
        return self

    # Said to the agent.

    def ask(
        self, kind: Kind, fields: Mapping[str, Any], answered: Callable[[dict[str, Any] | BiremeError], None]
    ) -> None:
        """Send a request; `answered` gets the fields of the answer, or the error. Invalid when it cannot be encoded,
        Unavailable without an agent that reads."""
        self._rid = self._rid % 0xFFFFFFFF + 1
        rid = self._rid
        self._send(agent.encode(kind, rid, fields))
        self.counters["requests"] += 1
        self._asked[rid] = Asked(self._loop.call_later(ANSWER_TIMEOUT_S, lambda: self._expire(rid)), answered)

    def tell(self, kind: Kind) -> None:
        """Send a request that has no answer."""
        if self._connection is not None:
            self._send(agent.encode(kind, 0, {}))

    def _send(self, frame: bytes) -> None:
        if self._connection is None:
            raise Unavailable(self.lost or "the machine's agent is not there yet", place="agent")
        if len(self._queued) + len(frame) > MAX_QUEUED:
            raise Unavailable("the machine's agent does not read", place="agent")
        self._queued += frame
        self._flush()

    def _flush(self) -> None:
        while self._queued and self._connection is not None:
            room = self._connection.sendable
            if not room:
                return
            del self._queued[: self._connection.send(bytes(self._queued[:room]))]

    def _expire(self, rid: int) -> None:
        asked = self._asked.pop(rid)
        if self.paused:
            self._asked[rid] = Asked(self._loop.call_later(ANSWER_TIMEOUT_S, lambda: self._expire(rid)), asked.answered)
            return
        asked.answered(Deadline(f"the machine's agent did not answer within {ANSWER_TIMEOUT_S:g} s", place="agent"))

    # Said by the agent.

    def on_data(self, data: bytes) -> None:
        if not self._heard:
            self._loop.call_soon(self._listen_on)
        self._heard += len(data)
        try:
            frames = self._decoder.feed(data)
        except agent.FrameError as error:
            self.lose(str(error))
            return
        for frame in frames:
            if self.lost:
                return
            self.counters["frames"] += 1
            try:
                self._on_message(agent.parse(frame))
            except Invalid as error:
                self.dropped(str(error))

    def _listen_on(self) -> None:
        """Credit goes back in the next turn, so that an agent that floods has a window's worth of each turn at most."""
        heard, self._heard = self._heard, 0
        if self._connection is not None:
            self._connection.consume(heard)

    def on_end(self) -> None:
        self.lose("the agent ended its connection")

    def on_writable(self) -> None:
        self._flush()

    def on_close(self) -> None:
        self._connection = None
        self.lose("the agent's connection broke")

    def dropped(self, why: str) -> None:
        """A message that means nothing."""
        self.counters["dropped"] += 1
        self.last_dropped = why

    def _on_message(self, message: agent.Message) -> None:
        fields = message.fields
        if message.kind is Kind.HELLO:
            self._take_hello(fields)
        elif not self.hello:
            self.dropped(f"{message.kind.name.lower()} before hello")
        elif message.kind is Kind.EXITED:
            self._on_exited(fields["number"], fields["code"] & 0xFF, _signal(fields["signal"]))
        else:
            self._answer(message)

    def _take_hello(self, fields: dict[str, Any]) -> None:
        if self.hello:
            self.dropped("hello twice")
            return
        self.hello = {
            "version": fields["version"],
            "software": fields["software"][:200],
            "kernel": fields["kernel"][:200],
            "at_ns": time.time_ns(),
        }
        try:
            self.hello["version"] = agent.agreed_version(fields["version"], fields["oldest"])
        except BiremeError as error:
            self.lose(str(error))
            return
        self._on_hello(fields)

    def _answer(self, message: agent.Message) -> None:
        asked = self._asked.pop(message.rid, None)
        if asked is None:
            self.dropped(f"an answer to {message.rid}, which nobody asked")
            return
        asked.timer.cancel()
        fields = message.fields
        if message.kind is Kind.OK:
            asked.answered(fields)
            return
        stage, number = fields["stage"][:32], fields["errno"]
        asked.answered(
            GuestFailed(stage, number if 0 <= number < 4096 else 0, fields["subject"][:512], fields["message"][:1024])
        )

    def lose(self, reason: str) -> None:
        """There is no agent any more: every question gets that answer."""
        if self.lost:
            return
        self.lost = reason
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.reset()
        asked, self._asked = self._asked, {}
        for one in asked.values():
            one.timer.cancel()
            one.answered(Unavailable(reason, place="agent"))
        self._on_lost(reason)

    def close(self) -> None:
        """Drop the connection without telling anybody."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.reset()
        for one in self._asked.values():
            one.timer.cancel()

    def describe(self) -> dict[str, Any]:
        """For `explain`."""
        return {
            **self.hello,
            "connected": self._connection is not None,
            "lost": self.lost,
            "waiting": len(self._asked),
            "queued_bytes": len(self._queued),
            **self.counters,
            "last_dropped": self.last_dropped,
        }


def _signal(number: int) -> int:
    """What an agent says killed a process; nonsense is no signal."""
    return number if 0 <= number <= 64 else 0

"""A machine's control socket, from the engine: connected when somebody asks, again after either side was replaced.

The other end is the machine's link process (wire/vmcontrol). What it cannot answer in time it does not answer at all:
a guest that hangs must not hang the engine.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bireme.drivers.supervised.channel import Channel, LinkLost
from bireme.errors import BiremeError, Conflict, Deadline, Unavailable
from bireme.instance.driver import ExitStatus
from bireme.linux.fd import close_quietly
from bireme.wire import vmcontrol

log = logging.getLogger(__name__)

PATIENCE_S = 10.0
RETRY_S = 0.05
MAX_QUEUED = 64
MAX_STRANGE = 1000


class MachineControl:
    """Calls to one machine. `on_event` gets every event of it, and says whether it was about something we know."""

    def __init__(
        self,
        identity: str,
        path: str,
        on_event: Callable[[MachineControl, Mapping[str, Any]], bool],
        patience_s: float = PATIENCE_S,
    ) -> None:
        self.identity = identity
        self.path = path
        self.paused = False
        self._patience_s = patience_s
        self._channel = Channel(path, "the machine", self._told, self._on_lost, MAX_QUEUED)
        self._on_event = on_event
        self._strange = 0
        self._greeting = asyncio.Lock()
        self._lost: asyncio.Future[None] | None = None
        self._closed = False

    async def call(self, op: str, fds: Sequence[int] = (), **fields: Any) -> Mapping[str, Any]:
        """Ask and wait. Conflict when it does not run (any more), Deadline when it does not answer."""
        await self.connect()
        try:
            answer, received = await asyncio.wait_for(self._channel.ask(op, fds, **fields), self._patience_s)
        except TimeoutError:
            raise self._late() from None
        except LinkLost as error:
            raise self._not_running() from error
        close_quietly(*received)
        return answer

    async def post(self, op: str, **fields: Any) -> None:
        """Ask, and let the answer come when it comes: of a machine that stands still."""
        await self.connect()
        self.post_soon(op, **fields)

    def _told(self, event: Mapping[str, Any]) -> None:
        """What it says unasked. One that only talks is not listened to any longer."""
        if self._on_event(self, event):
            return
        self._strange += 1
        if self._strange > MAX_STRANGE:
            log.warning("machine %s says what nobody asked for, its control socket is closed", self.identity[:12])
            self.close()

    def post_soon(self, op: str, **fields: Any) -> None:
        """`post` on the connection there is."""
        if self._channel.connected:
            self._channel.post(op, **fields).add_done_callback(lambda future: future.cancelled() or future.exception())

    async def connect(self) -> None:
        """There is a greeted connection when this returns. Conflict, Deadline."""
        async with self._greeting:
            if self._channel.connected:
                return
            if self._closed:
                raise self._not_running()
            try:
                await asyncio.wait_for(self._connect(), self._patience_s)
            except TimeoutError:
                self._channel.close()
                raise self._late() from None
            except (OSError, LinkLost) as error:
                self._channel.close()
                raise self._not_running() from error
            except BaseException:
                self._channel.close()
                raise

    async def _connect(self) -> None:
        await self._channel.connect()
        self._lost = asyncio.get_running_loop().create_future()
        hello, received = await self._channel.ask("hello", version=vmcontrol.VERSION)
        close_quietly(*received)
        vmcontrol.agreed_version(hello.get("version"))
        self.paused = hello.get("state") == "paused"

    async def follow(self, ending: asyncio.Future[ExitStatus]) -> ExitStatus:
        """Wait for an event that resolves `ending`, connecting again for as long as that takes."""
        while not ending.done():
            try:
                await self.connect()
            except (Conflict, Deadline, Unavailable):
                await asyncio.wait([ending], timeout=RETRY_S)
                continue
            if self._lost is not None:
                either: list[asyncio.Future[Any]] = [ending, self._lost]
                await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        return ending.result()

    def _on_lost(self) -> None:
        if self._lost is not None and not self._lost.done():
            self._lost.set_result(None)

    def _late(self) -> BiremeError:
        return Deadline(f"the machine did not answer within {self._patience_s:.0f} s", subject=self.identity)

    def _not_running(self) -> BiremeError:
        return Conflict(f"container {self.identity} is not running", subject=self.identity)

    def close(self) -> None:
        """The machine has ended, or the engine does."""
        self._closed = True
        self._channel.close()
        self._on_lost()

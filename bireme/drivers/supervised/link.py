"""The engine's end of the supervision protocol, on the event loop.

One seqpacket connection carries every request. When the supervisor is replaced the connection ends: pending calls fail
with LinkLost, and `ready` waits for the next connection, which repeats hello and configure before anybody else may
speak.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from bireme.drivers.supervised.channel import Answer, Channel, Event, LaunchRefused, LinkLost
from bireme.errors import BiremeError, Unavailable
from bireme.instance.driver import StartError

__all__ = ["LaunchRefused", "LinkLost", "SupervisorLink", "start_error"]

log = logging.getLogger(__name__)
RETRY_S = 0.05
REVIVE_AFTER = 20
"""Failed connections before somebody should look whether there still is a keeper."""

Greeting = Callable[["SupervisorLink"], Awaitable[None]]


class SupervisorLink:
    """Calls to one supervisor socket; reconnects for ever until `close`."""

    def __init__(
        self, path: str, on_event: Callable[[Event], None], greet: Greeting, revive: Callable[[], None] | None = None
    ) -> None:
        self._channel = Channel(path, "the supervisor", on_event, self._on_lost)
        self._greet = greet
        self._revive = revive
        self._greeted = asyncio.Event()
        self._lost = asyncio.Event()
        self._closed = False

    async def run(self, on_first: asyncio.Future[None]) -> None:
        """Keep connected; `on_first` resolves after the first greeting. `revive` is called while nobody answers."""
        failures = 0
        while not self._closed:
            try:
                await self._channel.connect()
                self._lost.clear()
                await self._greet(self)
            except (OSError, BiremeError) as error:
                self._channel.close()
                log.debug("supervisor is not there yet: %s", error)
                failures += 1
                if failures % REVIVE_AFTER == 0 and self._revive is not None:
                    self._revive()
                await asyncio.sleep(RETRY_S)
                continue
            failures = 0
            if not self._lost.is_set():
                self._greeted.set()
            if not on_first.done():
                on_first.set_result(None)
            await self._lost.wait()
            if not self._closed:
                log.warning("the supervisor went away, connecting again")

    async def ready(self, timeout_s: float = 30.0) -> None:
        """Wait until there is a greeted connection."""
        try:
            await asyncio.wait_for(self._greeted.wait(), timeout_s)
        except TimeoutError:
            raise Unavailable(
                "the supervisor does not answer", place=self._channel.path, hint="see the engine's log"
            ) from None

    async def call(self, op: str, fds: Sequence[int] = (), **fields: Any) -> Answer:
        """Ask and wait for the answer; its descriptors are the caller's. Errors of the supervisor are raised."""
        if not self._greeted.is_set():
            await self.ready()
        return await self._channel.ask(op, fds, **fields)

    async def ask(self, op: str, fds: Sequence[int] = (), **fields: Any) -> Answer:
        """`call` for the greeting itself: does not wait for it."""
        return await self._channel.ask(op, fds, **fields)

    def _on_lost(self) -> None:
        self._greeted.clear()
        self._lost.set()

    def close(self) -> None:
        self._closed = True
        self._channel.close()
        self._on_lost()


def start_error(refused: LaunchRefused, command: str) -> BiremeError:
    """Docker's error for a launch that failed in `stage`: 127 not found, 126 not executable, else 128."""
    text = f"failed to create task for container: unable to start container process: {_told(refused)}"
    exit_code = 128
    if refused.stage == "exec":
        exit_code = 127 if refused.errno == 2 else 126
    return StartError(text, exit_code, subject=command, place=refused.stage, hint=refused.error.hint)


def _told(refused: LaunchRefused) -> str:
    """The child's own words; with the stage and the subject where those would say nothing."""
    message, subject = refused.error.message, refused.error.subject
    if refused.stage in ("exec", "user", "cwd") or (subject and subject in message):
        return message
    return f"{refused.stage}: {subject}: {message}" if subject else f"{refused.stage}: {message}"

"""From a slot to a first process that waits for its plan, and the pool of such spares.

    Nursery.spawn(slot, ...)   zygote clones; child{pid} comes: hold its pidfd, put veths into its netns; ready: done
    Pool.claim(kind)           a spare, ready or on its way; None when there is none

Spares are made several at once when fewer than half are left: cloned in a row they cost the zygote a third less each.
The others are made in idle time, one after the other, once no start has come for a moment, so that those of a busy
time are made together. After a minute without starts all but one of a kind are let go. A spare that dies is replaced;
when three in a row cannot be made, the pool rests for a while and starts take the cold path, where the reason is
reported.
"""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING, Any

from bireme.errors import BiremeError, Unavailable
from bireme.linux import fd as fdlib
from bireme.linux import namespaces, netlink
from bireme.linux.poll import Quiet
from bireme.runtime import spare, sync
from bireme.supervisor import program

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Mapping, Sequence

    from bireme.linux.poll import Loop
    from bireme.linux.process import Exit
    from bireme.runtime.plan import Interface
    from bireme.supervisor.children import Children
    from bireme.supervisor.keeperlink import KeeperLink
    from bireme.supervisor.service import Service
    from bireme.supervisor.slots import Slot, Slots

Done = "Callable[[Slot, BiremeError | None], None]"

_SHRINK_AFTER_S = 60.0
_SHRUNK = 1
_REST_S = 5.0
_AT_ONCE = 4
_SETTLED_AFTER_S = 0.03
_MAX_FAILURES = 3
_MAX_TRIES = 10
_MAX_TRIES_WITH_CHILD = 3
_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"


def base36(number: int) -> str:
    text = ""
    while True:
        number, digit = divmod(number, 36)
        text = _DIGITS[digit] + text
        if not number:
            return text


class Birth:
    """One child on its way; `tries` counts zygotes that died over it."""

    __slots__ = ("child_seen", "done", "interfaces", "request", "slot", "tries")

    def __init__(
        self,
        slot: Slot,
        request: Mapping[str, Any],
        interfaces: Sequence[Interface],
        done: Callable[[Slot, BiremeError | None], None],
    ) -> None:
        self.slot = slot
        self.request = request
        self.interfaces = interfaces
        self.done = done
        self.tries = 0
        self.child_seen = False


class Nursery:
    """Speaks with the zygote, and with each child until it is ready."""

    def __init__(self, loop: Loop, keeper: KeeperLink, children: Children, zygote: Service) -> None:
        self._loop = loop
        self._keeper = keeper
        self._children = children
        self._zygote = zygote
        self.tag = ""
        """Begins the names of our interfaces after the v."""
        self._waiting: list[Birth] = []
        self._births: set[Birth] = set()
        self._netlink: netlink.RtNetlink | None = None
        self._veths = int(time.time()) % 36**3
        self._bridges: dict[str, int] = {}
        self.on_exit: Callable[[Slot, Exit], None] = lambda slot, ended: None

    def zygote_started(self) -> None:
        """Births that a dead zygote took along are asked for again, and those it had only half begun."""
        waiting, self._waiting = self._waiting, []
        for birth in list(self._births):
            self._on_message(birth)
            if not birth.child_seen and birth in self._births:
                self._hang_up(birth)
                self._ask(birth)
        for birth in waiting:
            self._ask(birth)

    def spawn(
        self,
        slot: Slot,
        request: Mapping[str, Any],
        interfaces: Sequence[Interface],
        done: Callable[[Slot, BiremeError | None], None],
    ) -> None:
        """Have the slot's first process made; `done(slot, error)` once it waits for its plan, or failed."""
        self._ask(Birth(slot, request, interfaces, done))

    def spawn_spares(
        self,
        slots: Sequence[Slot],
        interfaces: Sequence[Interface],
        done: Callable[[Slot, BiremeError | None], None],
    ) -> None:
        """`spawn` for stock children of several slots, asked for in one message."""
        births = [Birth(slot, spare.stock_request(slot.cgroup, slot.uid_base), interfaces, done) for slot in slots]
        self._send(births, {"op": "spares", "requests": [birth.request for birth in births]})

    def _ask(self, birth: Birth) -> None:
        self._send([birth], {"op": "spawn", "request": birth.request})

    def _send(self, births: Sequence[Birth], message: Mapping[str, Any]) -> None:
        """A socket for each; when the zygote is dead they wait for the next one."""
        pairs = [fdlib.seqpacket_pair() for _ in births]
        sent = self._zygote.send(message, [theirs.fileno() for _, theirs in pairs])
        for birth, (ours, theirs) in zip(births, pairs, strict=True):
            theirs.close()
            birth.tries += 1
            if sent:
                self._listen(birth, ours)
            else:
                ours.close()
                self._waiting.append(birth)

    def _listen(self, birth: Birth, ours: socket.socket) -> None:
        ours.setblocking(False)
        birth.slot.ctl = ours
        self._births.add(birth)
        self._loop.add(ours.fileno(), lambda _mask: self._on_message(birth))

    def _on_message(self, birth: Birth) -> None:
        slot = birth.slot
        if slot.ctl is None:
            return
        try:
            received = sync.receive_message(slot.ctl)
        except BlockingIOError:
            return
        if received is None:
            self._lost(birth)
            return
        message, fds = received
        kind = message["m"]
        try:
            if kind == "child":
                birth.child_seen = True
                self._on_child(birth, message["pid"], fds[0])
            elif kind == "ready":
                slot.ready = True
                self._finish(birth, None)
            else:
                fdlib.close_quietly(*fds)
                self._finish(birth, failure(message))
        except (OSError, BiremeError) as error:
            self._finish(birth, as_failure("network", error))

    def _on_child(self, birth: Birth, pid: int, pidfd: int) -> None:
        slot = birth.slot
        slot.pid = pid
        slot.pidfd = pidfd
        self._keeper.hold(slot.to_hold())
        self._children.watch(pid, lambda ended: self.on_exit(slot, ended))
        if birth.interfaces:
            slot.netns = namespaces.open_namespace(pid, "net")
            self._make_veths(slot, birth.interfaces)

    def _make_veths(self, slot: Slot, interfaces: Sequence[Interface]) -> None:
        if self._netlink is None:
            self._netlink = netlink.RtNetlink()
        messages = []
        for interface in interfaces:
            self._veths += 1
            slot.veth = f"v{self.tag}{base36(self._veths)}"
            messages.append(
                netlink.veth(
                    slot.veth,
                    interface["name"],
                    netns_fd=slot.netns,
                    master=self._bridge(interface["bridge"]),
                    mtu=interface["mtu"],
                )
            )
            messages.append(netlink.bridge_port(slot.veth, hairpin=True))
        self._netlink.batch(messages)

    def _bridge(self, name: str) -> int:
        """The bridge's ifindex now: it may have been made anew since we last looked."""
        assert self._netlink is not None
        link = self._netlink.link(name)
        if link is None:
            raise Unavailable(f"bridge {name} does not exist", subject=name, place="network")
        return link.ifindex

    def _lost(self, birth: Birth) -> None:
        """The other end closed without a word: the zygote or the child was killed. Nothing of a plan is in it yet."""
        self._hang_up(birth)
        if birth.tries >= (_MAX_TRIES_WITH_CHILD if birth.child_seen else _MAX_TRIES):
            birth.done(birth.slot, Unavailable("the instance's first process died before it was ready", place="spawn"))
            return
        self._forget_child(birth)
        if self._zygote.running:
            self._ask(birth)
        else:
            self._waiting.append(birth)

    def _forget_child(self, birth: Birth) -> None:
        slot = birth.slot
        birth.child_seen = False
        fdlib.close_quietly(slot.pidfd, slot.netns)
        slot.pidfd = slot.netns = -1

    def _hang_up(self, birth: Birth) -> None:
        slot = birth.slot
        self._births.discard(birth)
        if slot.ctl is not None:
            self._loop.remove(slot.ctl.fileno())
            slot.ctl.close()
            slot.ctl = None

    def _finish(self, birth: Birth, error: BiremeError | None) -> None:
        self._births.discard(birth)
        assert birth.slot.ctl is not None
        self._loop.remove(birth.slot.ctl.fileno())
        birth.done(birth.slot, error)


class Pool:
    """Spares by kind, oldest first; the building ones are counted as well."""

    def __init__(self, loop: Loop, nursery: Nursery, slots: Slots, shrink_after_s: float = _SHRINK_AFTER_S) -> None:
        self._loop = loop
        self._nursery = nursery
        self._slots = slots
        self._wanted: dict[str, int] = {}
        self._spares: dict[str, deque[Slot]] = {"none": deque(), "bridge": deque()}
        self._claims: dict[int, Callable[[Slot, BiremeError | None], None]] = {}
        self._short: set[str] = set()
        """Kinds of which several are built in the next turn, after the start that took one."""
        self._bridge: Interface | None = None
        self._failures = 0
        self._resting_until_s = 0.0
        self._complained = False
        self._last_claim_s = 0.0
        self._settling = False
        self._quiet = Quiet(loop, shrink_after_s, self._shrink)
        self.ending = False

    def configure(self, wanted: Mapping[str, int], bridge: Interface | None) -> None:
        """How many of each kind; without a bridge there are none for it."""
        if bridge != self._bridge:
            self._discard_kind("bridge")
        self._bridge = bridge
        self._wanted = {"none": wanted.get("none", 0), "bridge": wanted.get("bridge", 0) if bridge else 0}
        self._touch()

    def _touch(self) -> None:
        if any(self._wanted.values()):
            self._quiet.touch()

    def claim(self, kind: str, bridge: str) -> Slot | None:
        """The oldest spare of this kind; one that is not `ready` yet is to be waited for with `when_ready`."""
        if kind == "bridge" and (self._bridge is None or self._bridge["bridge"] != bridge):
            return None
        self._touch()
        self._last_claim_s = time.monotonic()
        spares = self._spares.get(kind)
        if spares is None:
            return None
        slot = spares.popleft() if spares else None
        if len(spares) < self._wanted.get(kind, 0) // 2 and kind not in self._short:
            self._short.add(kind)
            self._loop.call_soon(lambda: self._build_several(kind))
        if slot is not None and slot.ready and slot.ctl is not None:
            self._loop.remove(slot.ctl.fileno())
        return slot

    def when_ready(self, slot: Slot, done: Callable[[Slot, BiremeError | None], None]) -> None:
        """For a claimed spare that is still being built."""
        self._claims[slot.number] = done

    def refill(self) -> bool:
        """Idle work: begin one spare where one is missing; True when there may be more."""
        now_s = time.monotonic()
        if self.ending or now_s < self._resting_until_s:
            return False
        rest_s = self._last_claim_s + _SETTLED_AFTER_S - now_s
        if rest_s > 0:
            self._refill_later(rest_s)
            return False
        for kind, spares in self._spares.items():
            if len(spares) < self._target(kind):
                return self._build(kind)
        return False

    def _refill_later(self, delay_s: float) -> None:
        if not self._settling:
            self._settling = True
            self._loop.call_later(delay_s, self._settled)

    def _settled(self) -> None:
        self._settling = False
        self._loop.wake_idle()

    def _target(self, kind: str) -> int:
        wanted = self._wanted.get(kind, 0)
        return min(wanted, _SHRUNK) if self._quiet.reached else wanted

    def _build_several(self, kind: str) -> None:
        self._short.discard(kind)
        self._build(kind, min(self._wanted[kind] - len(self._spares[kind]), _AT_ONCE))

    def _build(self, kind: str, count: int = 1) -> bool:
        """Begin some; False when none could be."""
        if self.ending or time.monotonic() < self._resting_until_s:
            return False
        slots: list[Slot] = []
        try:
            slots.extend(self._slots.make(kind) for _ in range(count))
        except (OSError, BiremeError) as error:
            self._failed(as_failure("cgroup", error))
        if slots:
            self._spares[kind].extend(slots)
            interfaces = [self._bridge] if kind == "bridge" and self._bridge is not None else []
            self._nursery.spawn_spares(slots, interfaces, self._born)
        return bool(slots)

    def _born(self, slot: Slot, error: BiremeError | None) -> None:
        claim = self._claims.pop(slot.number, None)
        if error is None:
            self._failures = 0
            self._complained = False
        if claim is not None:
            claim(slot, error)
            return
        if error is not None or slot.ctl is None:
            self._forget(slot)
            self._failed(error)
            return
        if self.ending:
            self._forget(slot)
            return
        self._loop.add(slot.ctl.fileno(), lambda _mask: self._died(slot))

    def _failed(self, error: BiremeError | None) -> None:
        self._failures += 1
        if self._failures >= _MAX_FAILURES:
            self._failures = 0
            self._resting_until_s = time.monotonic() + _REST_S
            self._loop.call_later(_REST_S, self._loop.wake_idle)
            if not self._complained:
                self._complained = True
                program.log("supervisor", f"spares cannot be made, starts take the cold path: {error}")

    def _died(self, slot: Slot) -> None:
        """A parked spare says nothing: its socket is readable at its end only."""
        self._forget(slot)

    def _forget(self, slot: Slot) -> None:
        spares = self._spares.get(slot.kind)
        if spares is not None and slot in spares:
            spares.remove(slot)
        if slot.ctl is not None:
            self._loop.remove(slot.ctl.fileno())
        self._slots.dispose(slot)

    def _discard_kind(self, kind: str) -> None:
        for slot in [s for s in self._spares[kind] if s.ready]:
            self._forget(slot)

    def discard_all(self) -> None:
        """Let go of every spare; those on their way are let go when they arrive."""
        self.ending = True
        for kind in self._spares:
            self._discard_kind(kind)

    @property
    def building(self) -> int:
        return sum(not slot.ready for spares in self._spares.values() for slot in spares)

    def ready(self, kind: str) -> int:
        """How many wait for a plan."""
        return sum(slot.ready for slot in self._spares.get(kind, ()))

    def _shrink(self) -> None:
        for kind, spares in self._spares.items():
            surplus = [slot for slot in spares if slot.ready][self._target(kind) :]
            for slot in surplus:
                self._forget(slot)


def failure(message: Mapping[str, Any]) -> sync.StartFailed:
    """The exception an `error` message of a stage or child stands for."""
    return sync.StartFailed(
        message.get("stage", ""), message.get("errno", 0), message.get("subject", ""), message.get("message", "")
    )


def as_failure(stage: str, error: Exception) -> BiremeError:
    """An exception of ours while a start was prepared."""
    if isinstance(error, BiremeError):
        return error
    return failure(sync.describe_error(stage, error))

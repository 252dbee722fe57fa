"""The supervisor's side of the relay: passes requests on, and brings the sockets back to a new one.

Listening sockets of published ports must not close while their instance runs, or somebody else takes the port. So the
supervisor keeps duplicates, and the keeper too; the names with the keeper are numbered, what belongs to which instance
is in the journal. The relay is started when the first port needs it: most engines are spared 2 MiB.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bireme.errors import Invalid, Unavailable
from bireme.linux import fd as fdlib
from bireme.wire import supervision

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from bireme.supervisor.journal import Journal, Record
    from bireme.supervisor.keeperlink import KeeperLink
    from bireme.supervisor.server import Caller
    from bireme.supervisor.service import Service


class Ports:
    """The published ports of one instance."""

    __slots__ = ("entries", "fds", "names")

    def __init__(self, entries: list[Any], names: list[str], fds: list[int]) -> None:
        self.entries = entries
        self.names = names
        self.fds = fds


class Relaying:
    """Ports by instance."""

    def __init__(self, keeper: KeeperLink, journal: Journal, relay: Service) -> None:
        self._keeper = keeper
        self._journal = journal
        self._relay = relay
        self._ports: dict[str, Ports] = {}
        self._waiting: dict[int, Caller] = {}
        self._next_rid = 1
        self._next_name = 1
        relay.on_message = self._on_message
        relay.on_started = self._on_started

    def operations(self) -> dict[str, Callable[[Caller, dict[str, Any], list[int]], Any]]:
        return {"relay_add": self.add, "relay_remove": self.remove}

    def add(self, caller: Caller, message: dict[str, Any], fds: list[int]) -> None:
        """Replaces what this instance had."""
        identity, entries = message["id"], message.get("entries") or []
        if not isinstance(identity, str) or not isinstance(entries, list):
            fdlib.close_quietly(*fds)
            raise Invalid("relay_add without id and entries", place="relay")
        if not self._relay.begun:
            self._relay.start()
        if not self._relay.running:
            fdlib.close_quietly(*fds)
            raise Unavailable("the relay is being replaced", place="relay")
        self._forget(identity)
        names = []
        for _ in fds:
            names.append(f"relay/{self._next_name}")
            self._next_name += 1
        self._keeper.hold(dict(zip(names, fds, strict=True)))
        self._ports[identity] = Ports(entries, names, fds)
        self._journal.write(_record(identity, self._ports[identity]))
        self._ask(caller, {"op": "relay_add", "id": identity, "entries": entries}, fds)

    def remove(self, caller: Caller, message: dict[str, Any], fds: list[int]) -> None:
        """Answered when nobody has the ports any more: they can be taken again at once."""
        fdlib.close_quietly(*fds)
        request = {"op": "relay_remove", "id": message["id"]}
        self._forget(message["id"])
        self._keeper.sync(lambda: self._ask(caller, request, []))

    def _forget(self, identity: str) -> None:
        ports = self._ports.pop(identity, None)
        if ports is not None:
            self._keeper.drop(ports.names)
            fdlib.close_quietly(*ports.fds)
            self._journal.write({"t": "ports", "id": identity, "entries": [], "names": []})

    def _ask(self, caller: Caller | None, message: Mapping[str, Any], fds: list[int]) -> None:
        if not self._relay.begun:
            if caller is not None:
                caller.client.send(supervision.reply(caller.rid, {}))
            return
        rid = self._next_rid
        self._next_rid += 1
        if caller is not None:
            self._waiting[rid] = caller
        self._relay.send({"rid": rid, **message}, fds)

    def _on_message(self, message: dict[str, Any], fds: list[int]) -> None:
        fdlib.close_quietly(*fds)
        caller = self._waiting.pop(message.get("rid", 0), None)
        if caller is not None:
            caller.client.send({**message, "rid": caller.rid})

    def _on_started(self) -> None:
        """A new relay: what its predecessor did not answer is answered by the fact that it now has everything."""
        for identity, ports in self._ports.items():
            self._ask(None, {"op": "relay_add", "id": identity, "entries": ports.entries}, ports.fds)
        waiting, self._waiting = self._waiting, {}
        for caller in waiting.values():
            caller.client.send(supervision.reply(caller.rid, {}))

    def adopt(self, record: Record, held: dict[str, int]) -> None:
        """A predecessor's record; a later one of the same instance replaces it."""
        identity = record["id"]
        self._ports.pop(identity, None)
        fds = [held[name] for name in record["names"] if name in held]
        if record["names"] and len(fds) == len(record["names"]):
            self._ports[identity] = Ports(record["entries"], record["names"], fds)
        for name in record["names"]:
            self._next_name = max(self._next_name, int(name.rpartition("/")[2]) + 1)

    def held_names(self) -> set[str]:
        """Names with the keeper that are in use."""
        return {name for ports in self._ports.values() for name in ports.names}

    def resend(self) -> None:
        """After adopting: a relay that is told everything, if there is anything to tell."""
        if self._ports:
            self._relay.start()

    def records(self) -> list[Record]:
        return [_record(identity, ports) for identity, ports in self._ports.items()]

    @property
    def busy(self) -> bool:
        return bool(self._ports)


def _record(identity: str, ports: Ports) -> Record:
    return {"t": "ports", "id": identity, "entries": ports.entries, "names": ports.names}

"""All instances of this engine: in memory for every question, in the database for the next engine.

Create and remove wait for a durable commit. Run state is marked dirty and written in batches a moment later: the
supervisor holds the truth of running instances until `settle`, so an engine killed before the batch loses nothing, and
what lives shorter than that is never written (nor settled: its removal tells the supervisor as much).
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from typing import Protocol

import msgspec

from bireme.engine.directories import Directories
from bireme.engine.record import Definition, Instance, RunState
from bireme.errors import Conflict, Invalid, NotFound
from bireme.instance.spec import InstanceId

FLUSH_DELAY_S = 0.1
_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+\Z")
_encoder = msgspec.json.Encoder()
_definition = msgspec.json.Decoder(Definition)
_state = msgspec.json.Decoder(RunState)

Statement = tuple[str, Sequence[object]]


class Store(Protocol):
    """The part of the database this table uses."""

    def submit(self, statements: Sequence[Statement], durable: bool = True) -> Future[None]: ...

    def query(self, sql: str, args: Sequence[object] = ()) -> list[tuple[object, ...]]: ...


class InstanceTable:
    """Lookup by id, unique prefix or name; persistence of definitions and run state."""

    def __init__(
        self,
        store: Store,
        directories: Directories,
        on_stored: Callable[[list[Instance]], None],
    ) -> None:
        self._store = store
        self._directories = directories
        self._on_stored = on_stored
        self._by_id: dict[str, Instance] = {}
        self._by_name: dict[str, Instance | None] = {}
        self._dirty: dict[str, Instance] = {}
        self._timer: asyncio.TimerHandle | None = None

    def load(self) -> None:
        """Read every instance of an earlier engine."""
        rows = self._store.query("select id, name, spec, state, created_ns from instances")
        for identity, name, spec, state, created in rows:
            instance = Instance(
                InstanceId(str(identity)),
                str(name),
                _definition.decode(_blob(spec)),
                int(str(created)),
                self._directories.path(str(identity)),
            )
            instance.etc_directory = self._directories.etc.directory(instance.id, instance.directory)
            if state:
                instance.state = _state.decode(_blob(state))
            self._by_id[instance.id] = instance
            self._by_name[instance.name] = instance

    def __iter__(self) -> Iterator[Instance]:
        return iter(list(self._by_id.values()))

    def __len__(self) -> int:
        return len(self._by_id)

    def get(self, identity: str) -> Instance | None:
        return self._by_id.get(identity)

    def has_name(self, name: str) -> bool:
        return name in self._by_name

    def find(self, reference: str) -> Instance:
        """By full id, name, or unique id prefix, in Docker's order; NotFound and Invalid with Docker's wording."""
        if (found := self._by_id.get(reference)) is not None:
            return found
        if (named := self._by_name.get(reference.removeprefix("/"))) is not None:
            return named
        matches = [i for key, i in self._by_id.items() if reference and key.startswith(reference)]
        if len(matches) == 1:
            return matches[0]
        if matches:
            raise Invalid(f"multiple IDs found with provided prefix: {reference}", subject=reference)
        raise NotFound(f"No such container: {reference}", subject=reference)

    def reserve(self, name: str, identity: str) -> None:
        """Take a name before the instance is committed; Conflict when somebody has it."""
        if not _NAME.match(name):
            raise Invalid(f"Invalid container name ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed", subject=name)
        if name in self._by_name:
            holder = self._by_name[name]
            owner = f'"{holder.id}"' if holder is not None else "one that is being created"
            raise Conflict(
                f'Conflict. The container name "/{name}" is already in use by container {owner}. '
                "You have to remove (or rename) that container to be able to reuse that name.",
                subject=name,
            )
        self._by_name[name] = None

    def release(self, name: str) -> None:
        if self._by_name.get(name) is None:
            self._by_name.pop(name, None)

    async def insert(self, instance: Instance, others: Sequence[Statement] = ()) -> None:
        """Commit a new instance durably, together with `others`; its name was reserved."""
        statement = (
            "insert into instances (id, name, spec, state, created_ns) values (?, ?, ?, ?, ?)",
            (
                instance.id,
                instance.name,
                _encoder.encode(instance.definition),
                _encoder.encode(instance.state),
                instance.created_at_ns,
            ),
        )
        await asyncio.wrap_future(self._store.submit([statement, *others]))
        self._by_id[instance.id] = instance
        self._by_name[instance.name] = instance

    async def delete(self, instance: Instance, others: Sequence[Statement] = ()) -> None:
        """Forget an instance durably, together with `others`."""
        self._dirty.pop(instance.id, None)
        statement = ("delete from instances where id = ?", (instance.id,))
        await asyncio.wrap_future(self._store.submit([statement, *others]))
        self._by_id.pop(instance.id, None)
        if self._by_name.get(instance.name) is instance:
            del self._by_name[instance.name]

    async def rename(self, instance: Instance, name: str) -> None:
        self.reserve(name, instance.id)
        try:
            statement = ("update instances set name = ? where id = ?", (name, instance.id))
            await asyncio.wrap_future(self._store.submit([statement]))
        except BaseException:
            self.release(name)
            raise
        self._by_name.pop(instance.name, None)
        instance.name = name
        self._by_name[name] = instance

    async def redefine(self, instance: Instance, definition: Definition) -> None:
        """Replace the definition (update of limits) durably."""
        statement = ("update instances set spec = ? where id = ?", (_encoder.encode(definition), instance.id))
        await asyncio.wrap_future(self._store.submit([statement]))
        instance.definition = definition

    async def store(self, instance: Instance) -> None:
        """Write this instance's run state durably, before the answer to a user."""
        await asyncio.wrap_future(self._store.submit(self._updates([instance])))

    def mark(self, instance: Instance) -> None:
        """Write this instance's run state soon, together with others."""
        self._dirty[instance.id] = instance
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(FLUSH_DELAY_S, self._flush)

    def _flush(self) -> None:
        self._timer = None
        batch = [i for i in self._dirty.values() if i.id in self._by_id]
        self._dirty.clear()
        if not batch:
            return
        done = asyncio.wrap_future(self._store.submit(self._updates(batch), durable=False))
        done.add_done_callback(lambda f: self._stored(f, batch))

    @staticmethod
    def _updates(batch: list[Instance]) -> list[Statement]:
        return [("update instances set state = ? where id = ?", (_encoder.encode(i.state), i.id)) for i in batch]

    def _stored(self, future: asyncio.Future[None], batch: list[Instance]) -> None:
        if not future.cancelled() and future.exception() is None:
            self._on_stored(batch)

    async def flush(self) -> None:
        """Write what is dirty now; for shutdown."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None
        batch = [i for i in self._dirty.values() if i.id in self._by_id]
        self._dirty.clear()
        if batch:
            await asyncio.wrap_future(self._store.submit(self._updates(batch), durable=False))
            self._on_stored(batch)


def _blob(value: object) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()

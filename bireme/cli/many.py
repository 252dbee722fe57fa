"""The same request for several names: all are sent at once, each on a connection of its own, and answered in turn."""

from __future__ import annotations

from bireme.cli.messages import error_text
from bireme.client.engine import refusal
from bireme.errors import BiremeError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Any

    from bireme.cli.invocation import Invocation
    from bireme.client.engine import Query

_AT_ONCE = 50


def ask_all(
    invocation: Invocation, method: str, targets: Sequence[tuple[str, str, Query]]
) -> Iterator[tuple[str, Any, BiremeError | None]]:
    """(name, answer, error) for every (name, path, query), in order; at most 50 are under way."""
    engine = invocation.engine
    for start in range(0, len(targets), _AT_ONCE):
        batch = [
            (name, engine.connection(), engine.target(path, query)) for name, path, query in targets[start:][:_AT_ONCE]
        ]
        try:
            for _, connection, target in batch:
                connection.send(method, target)
            for name, connection, _ in batch:
                try:
                    response = connection.receive()
                    if response.status >= 400:
                        raise refusal(response)
                    yield name, response.json(), None
                except BiremeError as error:
                    yield name, None, error
        finally:
            for _, connection, _ in batch:
                connection.close()


def act_on_all(invocation: Invocation, method: str, targets: Sequence[tuple[str, str, Query]]) -> int:
    """Print each name that succeeded and each error; 1 when there was an error."""
    failed = 0
    for name, _, error in ask_all(invocation, method, targets):
        if error is None:
            invocation.out(name)
        else:
            invocation.err(error_text(error))
            failed = 1
    return failed


def each(invocation: Invocation, names: Sequence[str], act: Callable[[str], str | None]) -> list[str]:
    """One after the other: print what `act` returns, or its error; the names that failed."""
    failed = []
    for name in names:
        try:
            line = act(name)
        except BiremeError as error:
            invocation.err(error_text(error))
            failed.append(name)
        else:
            if line is not None:
                invocation.out(line)
    return failed

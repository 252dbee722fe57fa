"""Which devices share a process."""

from __future__ import annotations

from typing import Any, cast

import pytest

from bireme.vmm.assembly import Assembly


@pytest.mark.parametrize(
    ("interfaces", "rare", "processes"),
    [
        (["net0", "net1"], ["rng", "console"], [("net", ["net0", "net1", "rng", "console"])]),
        (["net0"], [], [("net", ["net0"])]),
        ([], ["rng"], [("entropy", ["rng"])]),
    ],
)
def test_what_is_rarely_asked_for_lives_with_the_interfaces(
    monkeypatch: pytest.MonkeyPatch, interfaces: list[str], rare: list[str], processes: list[tuple[str, list[str]]]
) -> None:
    assembly = Assembly(cast("Any", None), lambda kind: None)
    made: list[tuple[str, list[str]]] = []
    monkeypatch.setattr(assembly, "add", lambda kind, devices: made.append((kind, devices)))
    assembly.add_network(cast("Any", interfaces), cast("Any", rare))
    assert made == processes

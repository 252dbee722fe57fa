"""Words of a listing's rows."""

from __future__ import annotations

import json

from bireme.api.docker.bodies import CreateRequest
from bireme.api.docker.listing import Lister, RowCache, command_text, status_text
from bireme.api.docker.translate import spec_of
from bireme.engine.record import Health
from bireme.instance.driver import PortMapping
from bireme.instance.state import Status
from tests.support.services import IMAGE_ID, FakeInstance, FakeServices

SECOND = 10**9


def instance(**fields: object) -> FakeInstance:
    spec, _ = spec_of(CreateRequest(Image="busybox"), 55)
    made = FakeInstance(spec, "one")
    for name, value in fields.items():
        setattr(made, name, value)
    return made


def test_status() -> None:
    now = 1000 * SECOND
    for fields, text in (
        ({}, "Created"),
        ({"status": Status.RUNNING, "started_at_ns": 997 * SECOND}, "Up 3 seconds"),
        ({"status": Status.PAUSED, "started_at_ns": 997 * SECOND}, "Up 3 seconds (Paused)"),
        (
            {"status": Status.EXITED, "started_at_ns": 1, "finished_at_ns": 880 * SECOND, "exit_code": 3},
            "Exited (3) 2 minutes ago",
        ),
        (
            {"status": Status.RESTARTING, "started_at_ns": 1, "finished_at_ns": 997 * SECOND, "exit_code": 1},
            "Restarting (1) 3 seconds ago",
        ),
        (
            {"status": Status.RUNNING, "started_at_ns": 995 * SECOND, "health": Health()},
            "Up 5 seconds (health: starting)",
        ),
        (
            {"status": Status.RUNNING, "started_at_ns": 995 * SECOND, "health": Health(status="healthy")},
            "Up 5 seconds (healthy)",
        ),
        (
            {"status": Status.PAUSED, "started_at_ns": 995 * SECOND, "health": Health(status="unhealthy")},
            "Up 5 seconds (Paused)",
        ),
        ({"status": Status.REMOVING}, "Removal In Progress"),
        ({"status": Status.DEAD}, "Dead"),
    ):
        assert status_text(instance(**fields), now) == text


def test_command() -> None:
    assert command_text(()) == ""
    assert command_text(("sh", "-c", "a b", "c")) == "sh -c 'a b' c"


def test_rows_follow_what_they_show() -> None:
    services = FakeServices()
    cache = RowCache()
    made = instance()

    def row() -> dict[str, object]:
        (shown,) = json.loads(Lister(services.images, 50, cache).encode([made]))
        return dict(shown)

    first = row()
    assert (first["Names"], first["State"], first["Image"], first["ImageID"]) == (["/one"], "created", "", "")
    assert row() == first
    made.status, made.started_at_ns = Status.RUNNING, 1
    made.ports = (PortMapping(container_port=80, protocol="tcp", host_ip="0.0.0.0", host_port=8080),)
    second = row()
    assert second["State"] == "running"
    assert second["Ports"] == [{"IP": "0.0.0.0", "PrivatePort": 80, "PublicPort": 8080, "Type": "tcp"}]
    made.name = "two"
    assert row()["Names"] == ["/two"]
    made.health = Health(status="healthy")
    assert str(row()["Status"]).endswith(" (healthy)")
    assert IMAGE_ID in services.images.held

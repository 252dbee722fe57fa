"""Restart policies and health checks as the API reads and shows them."""

from __future__ import annotations

from typing import Any

import pytest

from bireme.api.docker.bodies import ContainerConfig, CreateRequest, HealthConfig, HostConfig, RestartPolicy
from bireme.api.docker.inspect import config, host_config, state
from bireme.api.docker.policies import health_of, restart_of, updated_restart
from bireme.api.docker.translate import spec_of
from bireme.engine.record import Health, Probe
from bireme.errors import Conflict, Invalid
from bireme.instance import spec as words
from bireme.instance.state import Status
from tests.support.services import FakeInstance

NEWEST = 55


def instance(host: HostConfig | None = None, **more: Any) -> FakeInstance:
    made, _ = spec_of(CreateRequest(Image="busybox", HostConfig=host or HostConfig(), **more), NEWEST)
    return FakeInstance(made, "one")


@pytest.mark.parametrize(
    ("name", "retries", "policy"),
    [
        ("", 0, None),
        ("", 7, None),
        ("no", 0, None),
        ("always", 0, words.RestartPolicy(name="always")),
        ("unless-stopped", 0, words.RestartPolicy(name="unless-stopped")),
        ("on-failure", 0, words.RestartPolicy(name="on-failure")),
        ("on-failure", 3, words.RestartPolicy(name="on-failure", retries=3)),
    ],
)
def test_policies(name: str, retries: int, policy: words.RestartPolicy | None) -> None:
    asked = RestartPolicy(Name=name, MaximumRetryCount=retries)
    assert restart_of(asked, auto_remove=False) == policy
    shown = host_config(instance(HostConfig(RestartPolicy=asked)).spec)["RestartPolicy"]
    assert shown == {"Name": name or "no", "MaximumRetryCount": retries if name else 0}


@pytest.mark.parametrize(
    ("name", "retries", "auto_remove", "message"),
    [
        ("sometimes", 0, False, "unknown policy 'sometimes'; use one of 'no', 'always', 'on-failure', or"),
        ("always", 1, False, "maximum retry count can only be used with 'on-failure'"),
        ("no", 1, False, "maximum retry count can only be used with 'on-failure'"),
        ("unless-stopped", -1, False, "can only be used with 'on-failure' and cannot be negative"),
        ("on-failure", -1, False, "maximum retry count cannot be negative"),
        ("always", 0, True, "can't create 'AutoRemove' container with restart policy"),
    ],
)
def test_wrong_policies(name: str, retries: int, auto_remove: bool, message: str) -> None:
    with pytest.raises(Invalid) as caught:
        restart_of(RestartPolicy(Name=name, MaximumRetryCount=retries), auto_remove=auto_remove)
    assert message in caught.value.message


def test_update_of_a_policy() -> None:
    present = instance(HostConfig(RestartPolicy=RestartPolicy(Name="always"))).spec
    assert updated_restart(present, RestartPolicy()) == words.RestartPolicy(name="always")
    assert updated_restart(present, RestartPolicy(Name="no")) is None
    removed = instance(HostConfig(AutoRemove=True)).spec
    assert updated_restart(removed, RestartPolicy(Name="no")) is None
    with pytest.raises(Conflict, match="Restart policy cannot be updated because AutoRemove is enabled"):
        updated_restart(removed, RestartPolicy(Name="always"))


def test_a_check_is_shown_as_it_was_asked_for() -> None:
    asked = HealthConfig(Test=["CMD", "true"], Interval=10**9, StartInterval=10**9, Retries=4)
    shown = config(instance(Healthcheck=asked), NEWEST)
    assert shown["Healthcheck"] == {
        "Test": ["CMD", "true"],
        "Interval": 10**9,
        "StartInterval": 10**9,
        "Retries": 4,
    }
    assert "Healthcheck" not in config(instance(), NEWEST)
    assert "Healthcheck" not in config(instance(Shell=["/bin/ash", "-c"]), NEWEST)


def test_the_start_interval_came_with_1_44() -> None:
    asked = ContainerConfig(Healthcheck=HealthConfig(StartInterval=10**9))
    found = health_of(asked, 43), health_of(asked, 44)
    assert [check.start_interval_ns for check in found if check is not None] == [0, 10**9]


@pytest.mark.parametrize(
    ("check", "message"),
    [
        ({"Test": ["CURL", "x"]}, "Unknown healthcheck type 'CURL' (expected 'CMD')"),
        ({"Test": ["CMD"]}, "Healthcheck of type CMD without a command"),
        ({"Test": ["CMD-SHELL"]}, "Healthcheck of type CMD-SHELL without a command"),
        ({"Interval": -1}, "Interval in Healthcheck cannot be less than 1ms"),
        ({"Timeout": 999_999}, "Timeout in Healthcheck cannot be less than 1ms"),
        ({"StartPeriod": 1}, "StartPeriod in Healthcheck cannot be less than 1ms"),
        ({"StartInterval": 1}, "StartInterval in Healthcheck cannot be less than 1ms"),
        ({"Retries": -1}, "Retries in Healthcheck cannot be negative"),
    ],
)
def test_wrong_checks(check: dict[str, Any], message: str) -> None:
    with pytest.raises(Invalid) as caught:
        health_of(ContainerConfig(Healthcheck=HealthConfig(**check)), NEWEST)
    assert caught.value.message == message


def test_state() -> None:
    one = instance()
    assert "Health" not in state(one)
    one.status, one.exit_code, one.finished_at_ns = Status.RESTARTING, 1, 10**9
    shown = state(one)
    assert [shown[key] for key in ("Status", "Running", "Restarting", "Paused", "Pid", "ExitCode")] == [
        "restarting",
        True,
        True,
        False,
        0,
        1,
    ]
    probe = Probe(start_ns=10**9, end_ns=2 * 10**9, exit_code=1, output="bad")
    one.health = Health(status="unhealthy", failing=3, log=(probe,))
    assert state(one)["Health"] == {
        "Status": "unhealthy",
        "FailingStreak": 3,
        "Log": [
            {"Start": "1970-01-01T00:00:01Z", "End": "1970-01-01T00:00:02Z", "ExitCode": 1, "Output": "bad"},
        ],
    }

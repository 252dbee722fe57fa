"""Restart policies and health checks in Docker's shapes: checked as dockerd checks them, and shown again."""

from __future__ import annotations

from typing import Any

import msgspec

from bireme.api.docker.bodies import ContainerConfig, HealthConfig, RestartPolicy
from bireme.api.docker.services import Instance
from bireme.api.docker.times import format_time
from bireme.engine.record import Health
from bireme.errors import Conflict, Invalid
from bireme.instance import spec

START_INTERVAL_SINCE = 44
MINIMUM_NS = 10**6
HEALTH_WORDS = frozenset({"none", "starting", "healthy", "unhealthy"})
_NAMES = ("no", "always", "on-failure", "unless-stopped")
_TIMES = ("Interval", "Timeout", "StartPeriod", "StartInterval")
_NO_RETRIES = "invalid restart policy: maximum retry count can only be used with 'on-failure'"


def restart_of(asked: RestartPolicy, *, auto_remove: bool) -> spec.RestartPolicy | None:
    """The policy that create asks for; Invalid with dockerd's words."""
    name, retries = asked.Name, asked.MaximumRetryCount
    if auto_remove and name not in ("", "no"):
        raise Invalid("can't create 'AutoRemove' container with restart policy")
    match name:
        case "":
            return None
        case "no" | "always" | "unless-stopped":
            if retries:
                raise Invalid(_NO_RETRIES + (" and cannot be negative" if retries < 0 else ""))
            return None if name == "no" else spec.RestartPolicy(name=name)
        case "on-failure":
            if retries < 0:
                raise Invalid("invalid restart policy: maximum retry count cannot be negative")
            return spec.RestartPolicy(name=name, retries=retries)
        case _:
            shown = "', '".join(_NAMES[:3])
            raise Invalid(
                f"invalid restart policy: unknown policy '{name}'; use one of '{shown}', or '{_NAMES[3]}'", subject=name
            )


def updated_restart(present: spec.InstanceSpec, asked: RestartPolicy) -> spec.RestartPolicy | None:
    """The policy after an update; one without a name leaves it alone."""
    policy = restart_of(asked, auto_remove=False)
    if not asked.Name:
        return present.restart
    if policy is not None and present.auto_remove:
        raise Conflict("Restart policy cannot be updated because AutoRemove is enabled for the container")
    return policy


def restart_document(policy: spec.RestartPolicy | None) -> dict[str, Any]:
    if policy is None:
        return {"Name": "no", "MaximumRetryCount": 0}
    return {"Name": policy.name, "MaximumRetryCount": policy.retries}


def health_of(config: ContainerConfig, version: int) -> spec.HealthCheck | None:
    """What create says of the check; what it leaves out comes from the image."""
    asked = config.Healthcheck
    if asked is None:
        return spec.HealthCheck(shell=tuple(config.Shell)) if config.Shell else None
    _check(asked)
    return spec.HealthCheck(
        test=tuple(asked.Test),
        interval_ns=asked.Interval,
        timeout_ns=asked.Timeout,
        start_period_ns=asked.StartPeriod,
        start_interval_ns=asked.StartInterval if version >= START_INTERVAL_SINCE else 0,
        retries=asked.Retries,
        shell=tuple(config.Shell),
    )


def _check(asked: HealthConfig) -> None:
    for name in _TIMES:
        if 0 != getattr(asked, name) < MINIMUM_NS:
            raise Invalid(f"{name} in Healthcheck cannot be less than 1ms")
    if asked.Retries < 0:
        raise Invalid("Retries in Healthcheck cannot be negative")
    if not asked.Test:
        return
    kind, *words = asked.Test
    if kind not in ("NONE", "CMD", "CMD-SHELL"):
        raise Invalid(
            f"Unknown healthcheck type '{kind}' (expected 'CMD')", subject=kind, hint="NONE and CMD-SHELL are known too"
        )
    if kind != "NONE" and not words:
        raise Invalid(f"Healthcheck of type {kind} without a command", subject=kind)


def check_document(check: spec.HealthCheck | None) -> dict[str, Any] | None:
    """Config.Healthcheck of inspect; None when nothing was said of it."""
    if check is None or check == spec.HealthCheck(shell=check.shell):
        return None
    shown = HealthConfig(
        Test=list(check.test),
        Interval=check.interval_ns,
        Timeout=check.timeout_ns,
        StartPeriod=check.start_period_ns,
        StartInterval=check.start_interval_ns,
        Retries=check.retries,
    )
    document: dict[str, Any] = msgspec.to_builtins(shown)
    return document


def health_document(health: Health) -> dict[str, Any]:
    """State.Health of inspect."""
    return {
        "Status": health.status,
        "FailingStreak": health.failing,
        "Log": [
            {
                "Start": format_time(probe.start_ns),
                "End": format_time(probe.end_ns),
                "ExitCode": probe.exit_code,
                "Output": probe.output,
            }
            for probe in health.log
        ],
    }


def health_word(instance: Instance) -> str:
    """What filters compare."""
    return instance.health.status if instance.health is not None else "none"

"""What the cgroups of a container are told: its limits and the rules of its devices."""

from __future__ import annotations

import os
import stat

from bireme.drivers.supervised.limits import from_limits
from bireme.instance.spec import InstanceSpec
from bireme.oci.runtime_spec import DeviceCgroup, Resources


def resources(spec: InstanceSpec) -> Resources:
    """What the cgroups of this instance are told; an empty mapping when nothing is limited."""
    made = from_limits(spec.limits)
    rules = _device_rules(spec)
    if rules:
        made["devices"] = rules
    return made


def _device_rules(spec: InstanceSpec) -> list[DeviceCgroup]:
    """Rules beyond the stock ones: everything when privileged, else one per device asked for."""
    if spec.security.privileged:
        return [{"allow": True, "access": "rwm"}]
    rules: list[DeviceCgroup] = []
    for device in spec.devices:
        status = os.stat(device.host_path)
        kind = "b" if stat.S_ISBLK(status.st_mode) else "c"
        rules.append(
            {
                "allow": True,
                "type": kind,
                "major": os.major(status.st_rdev),
                "minor": os.minor(status.st_rdev),
                "access": device.permissions,
            }
        )
    rules.extend(_rule(text) for text in spec.device_rules)
    return rules


def _rule(text: str) -> DeviceCgroup:
    kind, numbers, access = text.split(" ")
    major, _, minor = numbers.partition(":")
    rule: DeviceCgroup = {"allow": True, "type": kind, "access": access}
    if major != "*":
        rule["major"] = int(major)
    if minor != "*":
        rule["minor"] = int(minor)
    return rule

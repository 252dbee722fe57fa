"""Device rules reduced to what a kernel enforces: a default and the exceptions to it.

The v1 devices controller keeps exactly that (Documentation/admin-guide/cgroup-v1/devices.rst): "a" sets the default and
forgets the exceptions, any other line adds or removes one. It cannot say "all of major 8 but not 8:3", and writing such
a line does nothing, silently; so a list that needs it is refused here. v2 runs a BPF program and uses the same policy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from bireme.errors import Invalid, Unsupported
from bireme.linux.cgroup.contract import DEFAULT_ALLOWED, DeviceRule

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

Key = tuple[str, int, int]


class DevicePolicy(NamedTuple):
    """`exceptions` are (kind, major, minor) -> access in "rwm" order; they invert `allow`."""

    allow: bool
    exceptions: Mapping[Key, str]


def reduce_rules(rules: Iterable[DeviceRule]) -> DevicePolicy:
    """The policy a rule list ends in, starting from "deny everything". Unsupported when it is not expressible."""
    allow = False
    exceptions: dict[Key, str] = {}
    for rule in rules:
        if rule.kind == "a":
            allow, exceptions = rule.allow, {}
            continue
        key = (rule.kind, rule.major, rule.minor)
        if rule.allow != allow:
            exceptions[key] = _order(exceptions.get(key, "") + rule.access)
            continue
        left = "".join(c for c in exceptions.get(key, "") if c not in rule.access)
        exceptions.pop(key, None)
        _refuse_overlap(key, rule, exceptions)
        if left:
            exceptions[key] = left
    return DevicePolicy(allow, exceptions)


def _refuse_overlap(key: Key, rule: DeviceRule, exceptions: Mapping[Key, str]) -> None:
    for other, access in exceptions.items():
        same = other[0] == key[0] and all(-1 in (a, b) or a == b for a, b in zip(other[1:], key[1:], strict=True))
        if same and set(access) & set(rule.access):
            raise Unsupported(
                f"device rule {format_key(key)} {rule.access} takes a part out of {format_key(other)} {access}",
                place="linux.resources.devices",
                hint="list the devices one by one",
            )


def _order(access: str) -> str:
    return "".join(c for c in "rwm" if c in access)


def format_key(key: Key) -> str:
    """As the v1 files spell it: "c 1:3", "b *:*"."""
    kind, major, minor = key
    return f"{kind} {'*' if major < 0 else major}:{'*' if minor < 0 else minor}"


def plan_device_writes(new: DevicePolicy, old: DevicePolicy | None) -> list[tuple[str, bytes]]:
    """(file, line) to write in order so that a v1 cgroup with policy `old` (None = unknown) has `new`."""
    grant, revoke = ("devices.deny", "devices.allow") if new.allow else ("devices.allow", "devices.deny")
    writes: list[tuple[str, bytes]] = []
    if old is None or old.allow != new.allow:
        writes.append((revoke, b"a"))
        before: Mapping[Key, str] = {}
    else:
        before = old.exceptions
    for key, access in before.items():
        gone = "".join(c for c in access if c not in new.exceptions.get(key, ""))
        if gone:
            writes.append((revoke, f"{format_key(key)} {gone}".encode()))
    for key, access in new.exceptions.items():
        more = "".join(c for c in access if c not in before.get(key, ""))
        if more:
            writes.append((grant, f"{format_key(key)} {more}".encode()))
    return writes


def rules_from_resources(devices: Sequence[Mapping[str, object]]) -> tuple[DeviceRule, ...]:
    """OCI `linux.resources.devices` and, after them, the devices every container has."""
    parsed = [DeviceRule(False)]
    for index, entry in enumerate(devices):
        parsed.append(_parse_rule(entry, f"linux.resources.devices[{index}]"))
    if reduce_rules(parsed).allow:
        return tuple(parsed)
    return (*parsed, *DEFAULT_ALLOWED)


def _parse_rule(entry: Mapping[str, object], place: str) -> DeviceRule:
    if not isinstance(entry, dict):
        raise Invalid("a device rule is an object", place=place)
    allow = entry.get("allow")
    kind = entry.get("type") or "a"
    access = entry.get("access") or "rwm"
    if not isinstance(allow, bool):
        raise Invalid("a device rule needs allow: true or false", place=place)
    if kind not in ("a", "b", "c", "u"):
        raise Invalid(f"unknown device type {kind!r}", place=place)
    if not isinstance(access, str) or set(access) - set("rwm"):
        raise Invalid(f"device access {access!r} is not made of r, w and m", place=place)
    major, minor = (_number(entry.get(part), part, place) for part in ("major", "minor"))
    access = _order(access)
    if kind == "a" and (major >= 0 or minor >= 0 or access != "rwm"):
        if major >= 0 or minor >= 0:
            raise Invalid("a device rule with numbers needs type b or c", place=place)
        raise Unsupported(
            "a device rule for every device covers rwm", place=place, hint="use one rule for b, one for c"
        )
    return DeviceRule(allow, "c" if kind == "u" else str(kind), major, minor, access)


def _number(value: object, part: str, place: str) -> int:
    if value is None or value == -1:
        return -1
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 32:
        raise Invalid(f"device {part} number {value!r} is out of range", place=place)
    return value

"""Docker's rules for --cap-add, --cap-drop and --privileged."""

from __future__ import annotations

from bireme.errors import Invalid
from bireme.instance.spec import Security
from bireme.linux import capabilities


def resolve(security: Security) -> list[str]:
    """The capabilities of the first process, in kernel order; Invalid with Docker's text for an unknown name."""
    if security.privileged:
        return _known()
    add = [_normal(name, "add") for name in security.cap_add]
    drop = [_normal(name, "drop") for name in security.cap_drop]
    chosen = set(_known()) if "ALL" in add else set(capabilities.DEFAULT)
    if "ALL" in drop:
        chosen = set(_known()) - set(drop) if "ALL" in add else set()
    chosen = (chosen - set(drop)) | {name for name in add if name != "ALL"}
    return [name for name in capabilities.NAMES if name in chosen]


def _known() -> list[str]:
    return capabilities.names_of(capabilities.KNOWN)


def _normal(name: str, verb: str) -> str:
    full = name.upper()
    if full == "ALL":
        return full
    full = full if full.startswith("CAP_") else f"CAP_{full}"
    if full not in capabilities.NAMES:
        raise Invalid(f'invalid Cap{verb.capitalize()}: unknown capability: "{full}"', subject=name)
    return full

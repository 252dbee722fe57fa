"""Words shared by the v1 and v2 planners: what to write, in which order, and what is in force afterwards."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from bireme.linux.cgroup.contract import CgroupLimits


class Write(NamedTuple):
    """`value` to `file`; `controller` names who is missing when the file is."""

    controller: str
    file: str
    value: str
    alternative: tuple[str, str] | None = None
    """(file, value) on kernels without `file`."""
    optional: bool = False
    """A missing file is fine: the value is what such a kernel does anyway."""


class Step(NamedTuple):
    """Writes done in order; with `retry`, in reverse order once more when the kernel says EINVAL."""

    writes: tuple[Write, ...]
    retry: bool = False


def changed(new: CgroupLimits, before: CgroupLimits, field: str) -> bool:
    """`new` asks for a value of `field` that is not in force."""
    value = getattr(new, field)
    return value is not None and value != getattr(before, field)


def format_rdma(entry: tuple[str, int | None, int | None]) -> str:
    """A line of rdma.max: "mlx4_0 hca_handle=2 hca_object=2000"."""
    name, handles, objects = entry
    pairs = (("hca_handle", handles), ("hca_object", objects))
    return " ".join([name, *(f"{key}={value}" for key, value in pairs if value is not None)])


_KEY_LENGTHS = {
    "blkio_throttle": 3,
    "blkio_weight_devices": 2,
    "hugepages": 1,
    "net_priorities": 1,
    "rdma": 1,
    "unified": 1,
}


def merge(before: CgroupLimits, new: CgroupLimits) -> CgroupLimits:
    """What is in force after `new` was applied on top of `before`."""
    values: dict[str, object] = {}
    for field in new._fields:
        value = getattr(new, field)
        if value in (None, ()) or field == "check_before_update":
            continue
        length = _KEY_LENGTHS.get(field)
        if length is not None:
            merged = {entry[:length]: entry for entry in (*getattr(before, field), *value)}
            value = tuple(merged.values())
        values[field] = value
    return before._replace(**values)  # type: ignore[arg-type]

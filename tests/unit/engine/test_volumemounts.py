"""Which mounts an instance gets."""

from __future__ import annotations

import msgspec

from bireme.engine.volumemounts import inherited_mounts, plan_mounts
from bireme.instance.spec import Mount
from tests.support.engine import spec

BIND = Mount(kind="bind", source="/h", target="/b")
DATA = Mount(kind="volume", volume="data", target="/data")


def test_what_is_asked_comes_in_the_place_of_what_is_inherited() -> None:
    own = Mount(kind="tmpfs", target="/data")
    assert plan_mounts(spec(mounts=(own,)), [DATA, BIND]) == (own, BIND)


def test_a_volume_of_the_image_only_where_nothing_is_mounted() -> None:
    planned = plan_mounts(spec(mounts=(DATA,), volumes=("/data/", "x/../y", "/")), [])
    assert [(m.target, m.anonymous) for m in planned] == [("/data", False), ("/y", True)]


def test_parents_are_mounted_first() -> None:
    deep = msgspec.structs.replace(BIND, target="/data/a/b")
    planned = plan_mounts(spec(mounts=(deep, DATA), volumes=("/data/a",)), [])
    assert [m.target for m in planned] == ["/data", "/data/a", "/data/a/b"]


def test_inherited_ones_are_not_filled_and_never_gain_writing() -> None:
    read_only = msgspec.structs.replace(BIND, read_only=True)
    tmpfs = Mount(kind="tmpfs", target="/t")
    assert [m.read_only for m in inherited_mounts([read_only, DATA, tmpfs], False)] == [True, False]
    assert all(m.read_only and m.no_copy for m in inherited_mounts([read_only, DATA], True))

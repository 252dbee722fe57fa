import os

from bireme.linux import namespaces


def test_id_maps_are_lines() -> None:
    maps = [namespaces.IdMap(0, 100000, 65536), namespaces.IdMap(70000, 0, 1)]
    assert namespaces.format_id_map(maps) == b"0 100000 65536\n70000 0 1\n"


def test_inodes_of_a_child_are_ours() -> None:
    mine = namespaces.namespace_inodes()
    assert mine == namespaces.namespace_inodes(os.getpid())
    assert {"mnt", "pid", "net", "ipc", "uts", "user"} <= set(mine)


def test_a_namespace_descriptor_has_the_same_inode() -> None:
    fd = namespaces.open_namespace("self", "uts")
    try:
        assert os.fstat(fd).st_ino == namespaces.namespace_inodes()["uts"]
    finally:
        os.close(fd)


def test_flags_of_several_kinds() -> None:
    assert namespaces.flags_of(["net", "pid"]) == namespaces.KINDS["net"] | namespaces.KINDS["pid"]
    assert namespaces.flags_of([]) == 0

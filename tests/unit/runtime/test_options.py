import pytest

from bireme.errors import Unsupported
from bireme.runtime.options import parse_options


def test_flags_and_data() -> None:
    options = parse_options(["nosuid", "ro", "rw", "mode=755", "size=1k", "newinstance", "defaults", "sync", "async"])
    assert options.add == 2
    assert options.clear == 1
    assert options.data == (("mode", "755"), ("size", "1k"), ("newinstance", None), ("sync", None))
    assert options.data_text == "mode=755,size=1k,newinstance,sync"
    assert options.mount_flags == 2


def test_a_later_word_wins() -> None:
    assert parse_options(["rw", "ro"]).add == 1
    assert parse_options(["noatime", "strictatime"]).add == 0x20
    assert parse_options(["strictatime"]).mount_flags == 1 << 24


def test_words_for_the_whole_tree() -> None:
    options = parse_options(["rbind", "rro", "rnosuid", "rexec", "rshared"])
    assert (options.bind, options.recursive) == (True, True)
    assert (options.tree_add, options.tree_clear) == (3, 8)
    assert (options.propagation, options.propagation_tree) == (1 << 20, True)


def test_what_is_not_done() -> None:
    with pytest.raises(Unsupported):
        parse_options(["tmpcopyup"])

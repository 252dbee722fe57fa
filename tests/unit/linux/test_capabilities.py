import pytest

from bireme.errors import Invalid
from bireme.linux import capabilities


def test_masks_and_names_are_inverse() -> None:
    mask = capabilities.mask_of(capabilities.DEFAULT)
    assert mask == 0xA80425FB
    assert set(capabilities.names_of(mask)) == set(capabilities.DEFAULT)
    assert capabilities.mask_of(["cap_chown"]) == 1


def test_an_unknown_name_is_invalid() -> None:
    with pytest.raises(Invalid, match="CAP_FLY"):
        capabilities.mask_of(["CAP_FLY"])


def test_the_sets_match_proc() -> None:
    effective, permitted, inheritable = capabilities.get_sets()
    with open("/proc/self/status") as file:
        status = dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)
    assert (effective, permitted, inheritable) == tuple(int(status[k], 16) for k in ("CapEff", "CapPrm", "CapInh"))
    assert capabilities.bounding() == int(status["CapBnd"], 16)


def test_the_table_has_no_gap() -> None:
    assert len(capabilities.NAMES) == 41
    assert capabilities.ALL == (1 << 41) - 1
